"""What any process of ours needs before it knows what it is for: logging, its interpreter, its end.

Nothing here knows the log.
"""
