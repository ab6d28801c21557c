"""HTTP requests to addresses that customers and operators give: their rules, sending, signatures.

What is sent and what an answer means do not belong here.
"""
