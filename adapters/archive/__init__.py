"""Segments of the log as files: their format, writing and reading, and the place where they lie.

Which part of the log is archived, and its deletion from the database, do not belong here.
"""
