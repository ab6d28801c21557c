"""Fairness: the line of waiting jobs, serving it by turns, and caps on running jobs.

Nothing here decides whether a submission is admitted.
"""
