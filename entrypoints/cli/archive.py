"""`fairlog archive`: moves the oldest part of the log into segment files."""

from datetime import timedelta

import rich_click as click
from click.exceptions import UsageError

from adapters.archive.directory import Archive
from adapters.doctor import may_archive
from entrypoints.cli.failure import CommandFailed
from entrypoints.cli.options import DURATION
from entrypoints.cli.output import counted, echo, examples, progress_of_steps
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.processes.registration import check_settings
from entrypoints.runtime.interpreter import in_background
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_cuts import check_windows, cut_before
from entrypoints.use_cases.archiving import ArchiveDone, archive


@click.command(
    "archive",
    epilog=examples(
        "fairlog archive --older-than 90d --to /var/backups/fairlog",
        "fairlog archive --before 1000000 --to /var/backups/fairlog",
    ),
)
@database_url_option
@click.option(
    "--older-than",
    type=DURATION,
    metavar="TIME",
    help="Archive the events that are older than this, like 90d.",
)
@click.option(
    "--before",
    type=click.IntRange(min=1),
    metavar="POSITION",
    help="Archive the events before this position.",
)
@click.option(
    "--to",
    "location",
    required=True,
    metavar="DIR",
    help="A directory, or the URL of an object store: always the same one for a log.",
)
def archive_log(
    database_url: str | None, *, older_than: float | None, before: int | None, location: str
) -> None:
    """Move the oldest part of the log into files, and out of the database.

    The service goes on meanwhile. Each file is read back and compared before a row is deleted, and
    the command can be stopped at any moment and run again. Jobs that have not ended stay, whatever
    their age; the last four days of the log stay too. A job that is archived is answered with 410.
    """
    if (older_than is None) == (before is None):
        raise UsageError("Give either --older-than or --before.")
    place = Archive(location)
    with open_log(database_url) as fairlog:
        _check(fairlog, older_than)
        check_settings(fairlog)
        fairlog.writer.start()
        moment = None
        if older_than is not None:
            now = fairlog.read_now(fairlog.log.now)
            moment = now - timedelta(seconds=older_than)
        cut = cut_before(fairlog, moment, before)
        with in_background(), progress_of_steps() as report:
            done = archive(fairlog, place, cut, report)
    _report(done)


def _check(fairlog: Fairlog, older_than: float | None) -> None:
    """Raises `InvalidInput`, and `CommandFailed` for an account that lacks the right."""
    if not may_archive(fairlog.database):
        raise CommandFailed(
            "The account lacks DELETE on events: run `fairlog archive` with an account that has it "
            "(see docs/production.md)."
        )
    if older_than is not None:
        check_windows(fairlog, older_than)


def _report(done: ArchiveDone) -> None:
    if not done.segments:
        echo("Nothing to archive: no event is so old and may leave the log yet.")
        return
    size = sum(segment.size for segment in done.segments)
    files = counted(len(done.segments), "file", "files")
    echo(f"Archived events {done.first} to {done.last} in {files} of {size:,} bytes.")
