"""Programs of peers in Python, run in the environment `.peers`."""
