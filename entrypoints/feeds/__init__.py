"""Following the log within a process: its head, pages of its events, work for waiting claims, and
the projections behind it.

Nothing here knows HTTP, or decides what is done with an event.
"""
