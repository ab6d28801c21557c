"""Which server processes live, and that none has another's name or file.

What a server does lives in `entrypoints.processes`.
"""
