"""How projections are stored: rows, generations of tables, and the registry of versions.

Knows no projection by name but in the registry.
"""
