"""Connections to MySQL, MariaDB and SQLite: time-outs, errors by number, privileges, scratch
databases.

Knows no table of Fairlog's.
"""
