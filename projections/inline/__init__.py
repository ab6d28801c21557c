"""The projections that are written in the same transaction as the events.

What may lag behind the log is in `projections.following`.
"""
