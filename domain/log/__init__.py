"""The properties of the log: its hash chain, its Merkle tree, its time, its folds and upcasting.

Rules about jobs, limits or fairness do not belong here.
"""
