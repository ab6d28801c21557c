"""Commands of `fairlog`, run in the process of the test."""

from collections.abc import Callable

from click.testing import CliRunner

from entrypoints.cli.commands import cli
from tests.support.core import service

Run = Callable[..., str]


def commands_on(database_url: str, *group: str, notes: bool = False) -> Run:
    """Return what runs commands on a new database, those of a group if it is given.

    It returns what they print on standard output; with `notes`, on standard error too. Their errors
    are raised.
    """
    with service(database_url):
        pass  # makes the tables

    def run(*arguments: object) -> str:
        result = CliRunner(env={"FAIRLOG_DATABASE_URL": database_url}).invoke(
            cli, [*group, *map(str, arguments)], prog_name="fairlog", standalone_mode=False
        )
        if result.exception is not None:
            raise result.exception
        return result.output if notes else result.stdout

    return run
