"""Calls that are more than one command or one query: retries of many, exports, proofs, time travel.

How they are asked for (HTTP, command line, pages) is not known here.
"""
