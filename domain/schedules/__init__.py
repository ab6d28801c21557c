"""Schedules: when one is due, what follows then, and the fold of its events.

Not here: what a job is or what a limit allows. A schedule's job is submitted like any other, by
`domain.decisions.schedules`.
"""
