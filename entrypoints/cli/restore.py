"""`fairlog restore`: brings a log back from its archive."""

import rich_click as click

from entrypoints.cli.output import counted, echo, examples, note, progress
from entrypoints.cli.session import database_url_option, open_database
from entrypoints.use_cases.restore import restore


@click.command("restore", epilog=examples("fairlog restore --archive /var/backups/fairlog"))
@database_url_option
@click.option(
    "--archive",
    required=True,
    metavar="DIR|URL",
    help="The directory of the segments, or their URL in an object store.",
)
def restore_log(database_url: str | None, *, archive: str) -> None:
    """Write the events and bodies of an archive to a database, and build its projections.

    The database is empty, or has the live part of the same log, such as from a dump. No server may
    run on it, and bodies that were erased stay erased. The segments are checked as they are read.
    If the command is stopped, run it again: it goes on where it was.
    """
    with open_database(database_url) as fairlog, progress("restoring") as report:
        position, erased = restore(fairlog, archive, report)
    echo(f"Restored {counted(position, 'event', 'events')}. Check them with `fairlog verify`.")
    if erased.jobs:
        note(
            f"The bodies of {counted(erased.jobs, 'job', 'jobs')} were erased after the end of the "
            "restored log: this is recorded in it once more."
        )
