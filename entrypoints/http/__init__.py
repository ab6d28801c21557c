"""The HTTP API. A route checks a request, calls one service or use case, and returns the result."""
