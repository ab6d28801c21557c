"""What can be said of a log that is already written: is it legal, how did all stand, why did a job
wait.

Nothing here takes part in a decision.
"""
