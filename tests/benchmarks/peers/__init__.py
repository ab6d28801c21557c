"""Other job queues doing what `lifecycle` does, in the same run: `make bench-peers`.

Each has a program that submits and one that works, as `lifecycle` has; they are not of this project
and run in an environment of their own (`.peers`). None of them has limits, fairness or a history.
"""
