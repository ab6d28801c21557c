"""Migrations of the log's own tables. Projections create their tables themselves."""
