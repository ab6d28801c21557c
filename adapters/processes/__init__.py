"""Child processes: starting one, exchanging messages with it, and what a fork must not inherit.

What a child does belongs to the module that runs in it.
"""
