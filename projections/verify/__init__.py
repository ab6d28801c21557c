"""Holding the log and every projection against what the log says they must be.

It trusts no row that it reads, and repairs nothing itself.
"""
