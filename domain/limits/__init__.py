"""How many submissions a user's window admits, and what is known to be refused.

Caps on jobs that run at once belong to the order in which jobs start: see `domain.fairness.serve`.
"""
