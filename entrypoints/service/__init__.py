"""The service that HTTP, the dashboard and workers call: it executes commands and queries.

An operation that only one of them calls belongs to `entrypoints.use_cases`.
"""
