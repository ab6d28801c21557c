"""The inline projections, which the writer updates in the transaction that appends the events.

Projections that may lag behind the log are in `projections.following`.
"""
