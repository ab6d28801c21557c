"""The limits that are set, rate limits of submissions, and the cache of refusals from them.

Caps on running jobs do not belong here, but to the order of jobs: see `domain.fairness.serve`.
"""
