"""The command line, from the parsers that run it."""

import re
from collections.abc import Iterator
from typing import Final

import click

from entrypoints.cli.commands import cli
from fairlog_site.markdown import code, plain

_EXAMPLES: Final = "Examples:"


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command with its path, like `fairlog audit export`, outer ones first."""
    yield from _below("fairlog", cli)


def _below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _below(f"{path} {name}", inner)


def examples_of(command: click.Command) -> list[str]:
    """Return the lines of the examples in a command's help."""
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [line for line in lines if line and line != _EXAMPLES]


def page() -> str:
    return "\n".join(_command(path, command) for path, command in all_commands())


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f"## {code(path)}",
        f"{code(f'{path} {usage}')}",
        _help(command),
        _options(path, context),
    ]
    if examples := examples_of(command):
        parts.append("Examples:\n\n" + "\n".join(f"- ``{line}``" for line in examples))
    return "\n\n".join(part for part in parts if part) + "\n"


def _help(command: click.Command) -> str:
    paragraphs = re.split(r"\n\s*\n", (command.help or "").strip())
    return "\n\n".join(plain(" ".join(one.split())) for one in paragraphs)


def _options(path: str, context: click.Context) -> str:
    """Describe the options, each with an anchor of its own."""
    lines = [f":::{{program}} {path}\n:::"]
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or not isinstance(parameter, click.Option) or parameter.name == "help":
            continue
        names, text = record
        lines.append(f":::{{option}} {_signature(names)}\n{plain(text)}\n:::")
    return "\n\n".join(lines)


def _signature(names: str) -> str:
    """Return the names of an option as the directive reads them: `--on, --off VALUE`."""
    return names.replace(" / ", ", ")
