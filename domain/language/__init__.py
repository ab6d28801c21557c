"""The words in which everything else is said: events, commands, errors, and what a value must be.

No rule about jobs, limits or fairness lives here, and nothing that needs the log.
"""
