"""The worker: it claims jobs, runs their handlers and reports the outcomes, either inside a server
or in a process of its own over HTTP.
"""
