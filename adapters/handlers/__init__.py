"""Handlers from a user's modules: finding, importing and calling them.

When one is called is decided in `entrypoints.worker`.
"""
