"""A Galera cluster of three nodes under load (`make test-cluster`).

The parts, all by default:

- `contract`: the tests of what the database has to get right, on one node.
- `servers`: a server on each node, all at work at once; each is asked for the jobs of the others.
- `losses`: two servers that have all nodes as hosts of their database, and eight workers. A node is
  killed, frozen, stopped or cut off; when it is back, the next one is.

At the end of the last two, each answer is held against the log of each node.
"""
