"""Asynchronous projections, which lag behind the log, and the projector that keeps them up to date.

No decision may depend on one of them.
"""
