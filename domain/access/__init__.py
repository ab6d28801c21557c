"""Access: API keys, what each may do, and whose jobs it may see.

The state is a fold of the log; nothing else says what a key may do. Requests, routes and sessions
of the dashboard do not belong here: see `entrypoints.http.access`.
"""
