"""The vocabulary of the service: identifiers, events, commands, errors, policy and valid values.

Rules about jobs, limits or fairness do not belong here, nor does anything that reads the log.
"""
