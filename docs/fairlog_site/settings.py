"""The settings, from the types and descriptions in `adapters/settings.py`."""

from typing import Final

from adapters.settings import FIELDS, Field
from fairlog_site.commands import all_commands
from fairlog_site.markdown import code, plain

_COMMANDS: Final = ("fairlog serve", "fairlog worker")  # those whose flags are settings


def page() -> str:
    return "\n".join(map(_setting, FIELDS.values()))


def _setting(field: Field) -> str:
    lines = [
        f":::{{envvar}} FAIRLOG_{field.name.upper()}",
        plain(field.description),
        "",
        f"- Values: {_values(field)}",
        f"- Default: {_default(field)}",
        f"- Flag: {_flags(field) or 'none'}",
        f"- In `fairlog.toml`: {code(field.name)}",
        ":::",
        "",
    ]
    return "\n".join(lines)


def _values(field: Field) -> str:
    if field.is_switch:
        return "`on` or `off`"
    if field.choices:
        return ", ".join(map(code, field.choices))
    if field.range is not None:
        lowest, highest = field.range
        number = "a whole number" if field.is_whole else "a number"
        return f"{number} from {lowest:,} to {highest:,}"
    return "text"


def _default(field: Field) -> str:
    match field.default:
        case None | "":
            return "none"
        case bool(is_on):
            return code("on" if is_on else "off")
        case other:
            return code(other)


def _flags(field: Field) -> str:
    """Name the flags that give the setting, with their commands."""
    if field.name == "database_url":
        return "`--database-url` of each command that uses the database"
    found: dict[str, list[str]] = {}
    for path, command in all_commands():
        for option in command.params if path in _COMMANDS else ():
            if option.name == field.name:
                flags = " and ".join(map(code, [*option.opts, *option.secondary_opts]))
                found.setdefault(flags, []).append(path)
    return "; ".join(
        f"{flags} of {' and '.join(map(code, paths))}" for flags, paths in found.items()
    )
