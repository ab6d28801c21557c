"""Whose job starts next: the line of waiting jobs, serving it by turns, and caps.

Nothing here decides whether a submission is admitted.
"""
