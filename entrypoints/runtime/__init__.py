"""Support for any process of Fairlog: logging, interpreter settings, process exit, text and CSV.

Nothing here depends on the event log or on a database.
"""
