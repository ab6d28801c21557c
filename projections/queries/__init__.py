"""Read-only queries on the projections: job search and the line of waiting jobs.

Nothing here may write.
"""
