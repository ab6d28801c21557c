"""News of the log inside a process: where it ends, who has work, which projections follow.

What is done with the news lives with whoever waits for it.
"""
