"""Losses of nodes of a Galera cluster, one after the other, under load.

`python -m tests.cluster [--losses N] [--seed N]` (or `make test-cluster`) starts three nodes, two
servers that have all three as hosts of their database, and eight workers. A node is killed, frozen,
stopped or cut off; when it is back, the next one is. At the end each answer is held against the log
of each node.
"""
