"""The log as tables: schema, appending, reading by page, and the queries of an audit.

State that is derived from events belongs to `projections`.
"""
