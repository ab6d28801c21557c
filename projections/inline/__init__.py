"""The inline projections: the writer's state, which is current in memory with each batch.

Their rows are saved behind the log, many batches at once, in transactions of their own. Projections
that may lag behind the log are in `projections.following`.
"""
