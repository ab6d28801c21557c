"""Connections to MySQL, MariaDB and SQLite: time-outs, errors by number, privileges, scratch
databases.

Nothing here knows a table of Fairlog.
"""
