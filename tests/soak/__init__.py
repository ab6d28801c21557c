"""A soak: load, faults of every kind at random moments, and a judge at the end.

`python -m tests.soak [--minutes N] [--seed N] [--database mariadb|sqlite]` (or `make soak`) is too
long for the suite. `load` asks and keeps what it was answered, `faults` breaks things, `judge`
holds the answers against the log.
"""
