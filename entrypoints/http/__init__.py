"""The HTTP API. A route checks a request, calls one service or use case, and returns the result.

Pages for people do not belong here, nor do operations of several commands or queries: they are in
`entrypoints.dashboard` and `entrypoints.use_cases`.
"""
