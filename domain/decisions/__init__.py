"""Decisions: from a command and the state to new events, and the ports that the writer needs.

The rules that make new events are here and in the modules that `decide` calls.
"""
