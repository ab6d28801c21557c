"""Building projections anew from the log, beside the ones that serve.

What is built is defined by each projection.
"""
