"""Verification of the log, and of every projection against the log.

No row that is read is trusted: any column may hold anything. Nothing is repaired, except that
`bookkeeping.mend` removes rows about projections that no release writes.
"""
