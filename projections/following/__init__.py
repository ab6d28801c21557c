"""Projections that follow the log in a transaction of their own, and what they follow it with.

No decision depends on one of them.
"""
