"""The HTTP API: translate in, call one thing, translate out."""
