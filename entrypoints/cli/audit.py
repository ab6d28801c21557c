"""`fairlog audit`: a group of commands that read the log, and itself a search for events."""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, Final

import msgspec
import rich_click as click
from click.core import ParameterSource
from click.globals import get_current_context

from entrypoints.cli.event_filters import condition_options, conditions_of
from entrypoints.cli.export import export, follow
from entrypoints.cli.options import format_option, limit_option
from entrypoints.cli.output import echo, examples, note, printable
from entrypoints.cli.proofs import head, prove
from entrypoints.cli.session import archive_option, database_url_option, open_log
from entrypoints.cli.signed_checkpoints import checkpoint, key
from entrypoints.cli.state import state
from entrypoints.runtime.csv_cells import csv_lines
from entrypoints.service.views import EventView
from entrypoints.use_cases.export import EVENTS_PER_PAGE, pages

_DATA_CHARACTERS_MAX: Final = 120  # in a table
_USER_CHARACTERS_MAX: Final = 24
_ROW: Final = "{:>10}  {:<27}  {:<22}  {:<24}  {:>10}  {:<12}  {}"
_COLUMNS: Final = (
    "position",
    "recorded_at",
    "type",
    "version",
    "user_id",
    "job_id",
    "by",
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
@archive_option
@condition_options
@limit_option(
    100,
    "The maximum number of events: the newest, or with --after or --since the first ones from "
    "there.",
)
@click.option("--all", "everything", is_flag=True, help="Show all events and ignore --limit.")
@format_option(
    "table",
    "ndjson",
    "csv",
    text="A table for people, one JSON object per line, or comma-separated values.",
)
def audit(
    database_url: str | None,
    *,
    archive: str | None,
    limit: int,
    everything: bool,
    form: str,
    **conditions: Any,  # noqa: ANN401 (see `conditions_of`)
) -> None:
    """Show events of the log, by default the newest, in log order. If several conditions are given,
    all must hold.

    The commands below have options of their own.
    """
    context = get_current_context()
    if context.invoked_subcommand is not None:
        _refuse_conditions(context)
        return
    selected = conditions_of(**conditions)
    heading, format_event = _FORMATS[form]
    events_max = None if everything else limit
    with open_log(database_url, archive) as fairlog:
        after, end = fairlog.read_now(lambda connection: selected.between(fairlog.past, connection))
        if events_max is not None and not selected.begin_somewhere:
            newest = events_max
            after = fairlog.read_now(
                lambda connection: fairlog.past.position_before_newest(
                    connection, selected.wanted, end, newest
                )
            )
            if after:
                note("There are older events: begin with --after 0, or use --all.")
        if heading is not None:
            echo(heading)
        per_page = EVENTS_PER_PAGE if events_max is None else min(EVENTS_PER_PAGE, events_max + 1)
        written = 0
        found = pages(fairlog, selected.wanted, (after, end), bodies=False, per_page=per_page)
        for event in chain.from_iterable(found):
            if written == events_max:
                note(f"There are more events: continue with --after {after}, or use --all.")
                break
            after = event.position
            echo(format_event(event))
            written += 1
        if not written:
            note("No event matches.")


def _refuse_conditions(context: click.Context) -> None:
    """Refuse options before the name of a command, which would otherwise be ignored."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"Put the options after `audit {context.invoked_subcommand}`.")


def _as_row(event: EventView) -> str:
    return _ROW.format(
        event.position,
        _time(event.recorded_at),
        event.type,
        _clipped("" if event.user_id is None else event.user_id, _USER_CHARACTERS_MAX),
        "" if event.job_id is None else event.job_id,
        "" if event.by is None else event.by,
        _clipped(bytes(event.data).decode(errors="replace"), _DATA_CHARACTERS_MAX),
    ).rstrip()


def _as_json(event: EventView) -> str:
    return msgspec.json.encode(event).decode()


def _as_csv(event: EventView) -> str:
    return _csv_line([getattr(event, name) for name in _COLUMNS])


def _csv_line(values: Sequence[object]) -> str:
    return csv_lines([values]).removesuffix("\n")


_FORMATS: Final[dict[str, tuple[str | None, Callable[[EventView], str]]]] = {
    "table": (
        _ROW.format("position", "recorded_at", "type", "user", "job", "by", "data"),
        _as_row,
    ),
    "ndjson": (None, _as_json),
    "csv": (_csv_line(_COLUMNS), _as_csv),
}


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


def _clipped(text: str, characters_max: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= characters_max else f"{shown[: characters_max - 1]}…"


for _command in (export, follow, state, head, prove, checkpoint, key):
    audit.add_command(_command)
