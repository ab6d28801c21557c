"""The modules that are imported by the process that forks `fairlog` (`tests.support.forked`)."""

from entrypoints.runtime.interpreter import importing

with importing():
    from entrypoints.cli import commands
    from entrypoints.processes import server
    from tests.support import forked

__all__ = ["commands", "forked", "server"]
