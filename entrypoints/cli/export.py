"""`fairlog audit export` and `fairlog audit follow`: write the log to a file, or follow it live."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import rich_click as click
from click.exceptions import UsageError

from adapters.log.audit_log import EventFilter
from domain.language.errors import LogUnavailable
from entrypoints.cli.event_filters import condition_options, conditions_of
from entrypoints.cli.output import examples, note, progress
from entrypoints.cli.session import archive_option, database_url_option, open_log
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.export import FORMATS, ExportedEvent, export_format, pages

POLL_SECONDS: Final = 0.25
_bodies = click.option(
    "--bodies",
    is_flag=True,
    help="Include payloads, results and errors, or that they were erased.",
)


@click.command(
    epilog=examples(
        "fairlog audit export --output log.parquet",
        "fairlog audit export --user alice --bodies --format ndjson > alice.ndjson",
        "fairlog audit export --type JobFailed --since 2026-01-31T00:00:00Z --format csv",
    )
)
@database_url_option
@archive_option
@condition_options
@_bodies
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Default: by the extension of --output, else ndjson. Parquet needs pyarrow.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file, which is written whole or not at all. Default: standard output.",
)
def export(
    database_url: str | None,
    *,
    archive: str | None,
    bodies: bool,
    form: str | None,
    output: Path | None,
    **conditions: Any,  # noqa: ANN401 (see `conditions_of`)
) -> None:
    """Write all events that match, up to the current end of the log."""
    asked = conditions_of(**conditions)
    form = form or _format_of(output)
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet cannot be written to a terminal: give --output.")
    with open_log(database_url, archive) as fairlog:
        between = fairlog.read_now(lambda connection: asked.between(fairlog.past, connection))
        with _opened(output) as file, progress("exporting") as report:
            written = export_format(form, file, bodies=bodies)
            for page in pages(fairlog, asked.wanted, between, bodies=bodies):
                written.write(page)
                report(page[-1].position - between[0], between[1] - between[0] - 1)
            written.close()


def _format_of(output: Path | None) -> str:
    extension = "" if output is None else output.suffix.removeprefix(".")
    return extension if extension in FORMATS else "ndjson"


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


@click.command(
    epilog=examples(
        "fairlog audit follow --user alice", "fairlog audit follow --after 0 | jq .type"
    )
)
@database_url_option
@condition_options
@_bodies
def follow(
    database_url: str | None,
    *,
    bodies: bool,
    **conditions: Any,  # noqa: ANN401 (see `conditions_of`)
) -> None:
    """Print events as they come, one JSON object a line, until Ctrl-C.

    Begins with what comes from now on; with --after or --since, with what is there already.
    """
    asked = conditions_of(**conditions)
    if asked.until is not None:
        raise UsageError("What comes has no end: --until goes with `audit export`.")
    with open_log(database_url) as fairlog:
        after, end = fairlog.read_now(lambda connection: asked.between(fairlog.past, connection))
        if asked.after is None and asked.since is None:
            after = end - 1
        written = export_format("ndjson", sys.stdout.buffer, bodies=bodies)
        for page in _news(fairlog, asked.wanted, after, bodies=bodies):
            written.write(page)
            sys.stdout.buffer.flush()


def _news(
    fairlog: Fairlog, wanted: EventFilter, after: int, *, bodies: bool
) -> Iterator[list[ExportedEvent]]:
    """Yield pages of events as they come. Waits for a database that is away."""
    is_away = False
    while True:
        try:
            end = fairlog.read_now(fairlog.log.position)
            for page in pages(fairlog, wanted, (after, end + 1), bodies=bodies):
                yield page
                after = page[-1].position
            after = max(after, end)
            is_away = False
        except LogUnavailable:
            if not is_away:
                note("The database does not answer; waiting for it.")
            is_away = True
        time.sleep(POLL_SECONDS)
