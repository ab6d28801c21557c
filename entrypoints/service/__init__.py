"""One running Fairlog: commands in, answers and views out, for HTTP, dashboard and worker alike.

A call that only one of them makes is in `entrypoints.use_cases`.
"""
