"""Storage that all projections share: rows, generations of rows, and the registry of generations.

Nothing here may depend on a particular projection.
"""
