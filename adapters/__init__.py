"""The outside world: databases, the clock, settings and the handlers that run a job."""
