"""From a command to events: what the log answers, given what it has to know.

The only place that makes new events, and the ports through which the log is written.
"""
