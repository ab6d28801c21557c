"""The life cycle of one job: its states, its attempts, and the fold of its events.

Rules about several jobs, rate limits or the order of jobs do not belong here.
"""
