"""Audit of a recorded log: legality of events, past states, explanation of jobs, what-if analysis.

Nothing here takes part in a decision.
"""
