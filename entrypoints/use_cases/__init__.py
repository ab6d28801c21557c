"""Use cases that take more than one command or query: bulk retries, exports, proofs, time travel.

They know nothing of HTTP, the command line or pages.
"""
