"""The processes of Fairlog, from settings to running: the server, its app, the writer, recovery.

Only the command line stands above.
"""
