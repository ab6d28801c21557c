"""The one thread that writes: its queue, its batches, and the process in which it may run.

What is written is decided in `domain.decisions`.
"""
