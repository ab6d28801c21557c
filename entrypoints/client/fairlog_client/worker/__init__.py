"""The worker: it claims jobs, runs their handlers in child processes, and reports the outcomes."""
