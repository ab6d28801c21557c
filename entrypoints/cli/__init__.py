"""The command line. An error is one line on standard error that says what to do.

A command reads its arguments, calls a service or use case, and prints. What HTTP or the dashboard
need too does not belong here, since no other package may import this one.
"""

from entrypoints.runtime.interpreter import importing


def main() -> None:
    """Run a command and end the process with its exit code."""
    with importing():
        from entrypoints.cli.commands import run  # noqa: PLC0415 (not before `importing`)
    run()
