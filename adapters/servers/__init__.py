"""Running server processes: their names, and locks that keep each name and file to one of them.

What a server does belongs to `entrypoints.processes`.
"""
