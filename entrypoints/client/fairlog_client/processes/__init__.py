"""Child processes of our own programs: messages, starts, and what forks must not inherit."""
