"""Handlers from a user's modules: finding, importing and calling them.

When a handler is called is decided in `fairlog_client.worker`.
"""
