"""What makes a row of events a log: its chain, its Merkle tree, its time, and how old events are
read.

Knows that there are events, and of no event what it means for a job.
"""
