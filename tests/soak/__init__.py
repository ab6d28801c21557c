"""A soak: load with everything in use, faults of every kind at random moments, and a referee.

`python -m tests.soak [--minutes N] [--seed N] [--database mariadb|sqlite]` (or `make soak`) is too
long for the suite. `tenants` sets up API keys, plans and schedules; `load` and the programs that
`programs` starts ask and keep what they were answered; `faults` and `process_faults` break things;
`referee` holds the answers against the log; `report` writes docs/soak.md.
"""
