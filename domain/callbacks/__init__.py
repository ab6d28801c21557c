"""Callbacks: the endpoints that are told the ends of jobs, and the versions of their secrets.

The jobs that deliver do not belong here: `domain.decisions.deliveries` submits them.
"""
