"""The life of one job: its states, its attempts, and what the events say of it.

A rule that needs a second job, a user's window or an order is not here.
"""
