"""Decisions: from a command and the state to new events, and the ports that the writer needs.

No other package makes new events.
"""
