"""The worker: one runtime that runs handlers, in the server's own process or far away over HTTP."""
