"""The worker inside a server, and the handlers of the service's workers.

The worker itself is in `fairlog_client.worker`, so that it runs without the service, too.
"""
