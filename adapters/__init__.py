"""The outside world: databases, the clock, settings, files, HTTP requests and processes.

The handlers that run jobs are in `entrypoints`.
"""
