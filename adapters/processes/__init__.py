"""Child processes: starting one, talking with it, and what a fork may not keep.

What a child does lives where it is done.
"""
