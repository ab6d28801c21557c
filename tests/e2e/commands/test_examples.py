"""The examples in the help of commands, which are also on the page "Command line"."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from entrypoints.cli.commands import cli


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from commands(inner)


def examples() -> list[str]:
    lines = [line for command in commands(cli) for line in (command.epilog or "").splitlines()]
    return [line for line in lines if "fairlog" in line]


def parse(arguments: list[str]) -> None:
    """Check the arguments as a run would, and run nothing. Raises `click.ClickException`."""
    command: click.Command = cli
    path = "fairlog"
    while isinstance(command, click.Group) and arguments and arguments[0] in command.commands:
        path = f"{path} {arguments[0]}"
        command = command.commands[arguments.pop(0)]
    command.make_context(path, arguments)


@pytest.mark.parametrize("example", examples())
def test_an_example_is_a_command_that_exists_with_options_that_it_has(example: str) -> None:
    found = re.match(r"(?:\w+=\S+ )*fairlog ([^<>|]*)", example)
    assert found is not None, example
    parse(shlex.split(found[1]))


def test_a_wrong_example_would_be_found() -> None:
    assert len(examples()) > 20
    with pytest.raises(click.NoSuchOption):
        parse(["audit", "--jobs", "1042"])
