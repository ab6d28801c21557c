"""`fairlog audit`: questions to the log, a page at a time."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import rich_click as click
from click.core import ParameterSource
from click.globals import get_current_context
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from entrypoints.cli.conditions import condition_options, conditions_of
from entrypoints.cli.evidence import head, prove
from entrypoints.cli.export import export, follow
from entrypoints.cli.opening import database_url_option, opened_log, settings_from
from entrypoints.cli.output import examples, note, printable, say
from entrypoints.cli.past import state
from entrypoints.runtime.csv_cells import csv_lines
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import EventView, event_view

EVENTS_PER_PAGE: Final = 1000
_DATA_CHARACTERS_MAX: Final = 120  # in a table
_USER_CHARACTERS_MAX: Final = 24
_ROW: Final = "{:>10}  {:<27}  {:<22}  {:<24}  {:>10}  {}"
_COLUMNS: Final = (
    "position",
    "recorded_at",
    "type",
    "version",
    "user_id",
    "job_id",
    "data",
    "hash",
)


@click.group(
    invoke_without_command=True,
    subcommand_metavar="[COMMAND [ARGS]...]",
    epilog=examples(
        "fairlog audit --job 1042",
        "fairlog audit --user alice --type RateLimitDecided --since 2026-01-31T12:00:00Z",
        "fairlog audit --all --format ndjson > log.ndjson",
    ),
)
@database_url_option
@condition_options
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="At most so many events.",
)
@click.option("--all", "everything", is_flag=True, help="All of them, whatever --limit says.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "ndjson", "csv"]),
    default="table",
    show_default=True,
    help="For people, or one JSON object a line, or comma-separated values.",
)
def audit(
    database_url: str | None,
    *,
    limit: int,
    everything: bool,
    form: str,
    **conditions: Any,  # noqa: ANN401 (see `conditions_of`)
) -> None:
    """Ask the log what happened. Conditions may be combined; all must hold.

    A command behind `audit` has conditions of its own.
    """
    context = get_current_context()
    if context.invoked_subcommand is not None:
        _refuse_conditions(context)
        return
    asked = conditions_of(**conditions)
    start, write = _FORMATS[form]
    most = None if everything else limit
    with opened_log(settings_from({"database_url": database_url})) as fairlog:
        after, end = fairlog.read_now(lambda connection: asked.between(fairlog.log, connection))
        if start is not None:
            say(start)
        page = EVENTS_PER_PAGE if most is None else min(EVENTS_PER_PAGE, most + 1)
        written = 0
        for event in _events(fairlog, asked.wanted, (after, end), page):
            if written == most:
                note(f"There are more: --after {after} goes on, --all gives everything.")
                break
            after = event.position
            say(write(event))
            written += 1
        if not written:
            note("No event matches.")


def _refuse_conditions(context: click.Context) -> None:
    """What stands before a command would otherwise be lost without a word."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"Options go behind `audit {context.invoked_subcommand}`.")


def _events(
    fairlog: Fairlog, wanted: EventFilter, between: tuple[int, int], events_a_page: int
) -> Iterator[EventView]:
    """Events in log order, between two positions and without them; a page of them in memory."""
    after, end = between

    def read(connection: Connection) -> list[EventView]:
        found = audit_log.find(connection, wanted, after, events_a_page)
        return [event_view(event) for event in found]

    while page := fairlog.read_now(read):
        for event in page:
            if event.position >= end:
                return
            yield event
        after = page[-1].position


def _as_row(event: EventView) -> str:
    return _ROW.format(
        event.position,
        _time(event.recorded_at),
        event.type,
        _clipped("" if event.user_id is None else event.user_id, _USER_CHARACTERS_MAX),
        "" if event.job_id is None else event.job_id,
        _clipped(bytes(event.data).decode(errors="replace"), _DATA_CHARACTERS_MAX),
    ).rstrip()


def _as_json(event: EventView) -> str:
    return msgspec.json.encode(event).decode()


def _as_csv(event: EventView) -> str:
    return _csv_line(
        [
            event.position,
            event.recorded_at,
            event.type,
            event.version,
            event.user_id,
            event.job_id,
            event.data,
            event.hash,
        ]
    )


def _csv_line(values: Sequence[object]) -> str:
    return csv_lines([values]).removesuffix("\n")


_FORMATS: Final[dict[str, tuple[str | None, Callable[[EventView], str]]]] = {
    "table": (
        _ROW.format("position", "recorded_at", "type", "user", "job", "data"),
        _as_row,
    ),
    "ndjson": (None, _as_json),
    "csv": (_csv_line(_COLUMNS), _as_csv),
}


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


def _clipped(text: str, most: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


for _command in (export, follow, state, head, prove):
    audit.add_command(_command)
