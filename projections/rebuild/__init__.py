"""Rebuilding inline projections from the log while the service runs.

What is built is defined by each projection.
"""
