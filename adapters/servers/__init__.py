"""Running server processes: their names, locks that keep each name and file to one of them, and
the login sessions that they share.

What a server does belongs to `entrypoints.processes`.
"""
