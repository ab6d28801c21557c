"""Questions that only read the projections: searches, and the order of what waits.

Nothing here writes.
"""
