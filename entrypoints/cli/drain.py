"""`fairlog drain`: pauses all starts and waits for the jobs that run.

The pause is an event of the log, so it holds for all servers and workers, also those that start
later.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import rich_click as click
from click.exceptions import Exit
from sqlalchemy.engine import Connection

from domain.jobs.job import State
from domain.language.commands import ChangeLimit
from domain.language.events import Scope
from entrypoints.cli.failure import CHECK_FAILED
from entrypoints.cli.options import DURATION
from entrypoints.cli.output import counted, echo, examples, note, printable
from entrypoints.cli.session import database_url_option, open_writer
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.find_jobs import JobConditions, find_jobs

_LISTED_MAX: Final = 20
_POLL_SECONDS: Final = 0.5
_ROW: Final = "{:>10}  {:<20}  {:<16}  {:>7}  {:<20}  {}"

T = TypeVar("T")


@click.command(epilog=examples("fairlog drain", "fairlog drain --timeout 10m"))
@database_url_option
@click.option(
    "--timeout",
    type=DURATION,
    default="5m",
    show_default=True,
    metavar="TIME",
    help="How long to wait for running jobs, like 90s or 10m.",
)
def drain(database_url: str | None, *, timeout: float) -> None:
    """Pause all starts and wait until no job runs, for a deployment.

    Submissions are taken, and wait. Starts stay paused until `fairlog resume --all`. The exit
    code is 1 if jobs still run after the time; they are listed, and go on.
    """
    ends = time.monotonic() + timeout
    with open_writer(database_url) as fairlog:
        fairlog.execute_now(ChangeLimit(scope=Scope.GLOBAL, paused=True))
        note("All starts are paused until `fairlog resume --all`.")
        while running := _read(fairlog, partial(_count, fairlog)):
            left = ends - time.monotonic()
            if left <= 0:
                _report(fairlog, running)
                raise Exit(CHECK_FAILED)
            time.sleep(min(_POLL_SECONDS, left))
    echo("No job runs.")


def _read(fairlog: Fairlog, query: Callable[[Connection], T]) -> T:
    return fairlog.read_now(fairlog.with_saved_rows(query))


def _count(fairlog: Fairlog, connection: Connection) -> int:
    """Return the number of attempts that run, those of cancelled and timed out jobs among them."""
    _, all_kinds = fairlog.line.busiest_kinds(connection, 0)
    return all_kinds.running


def _report(fairlog: Fairlog, running: int) -> None:
    wanted = JobConditions(state=State.RUNNING)
    jobs = _read(fairlog, partial(find_jobs, wanted=wanted, below=None, jobs_max=_LISTED_MAX)).jobs
    if jobs:
        echo(_ROW.format("id", "user", "kind", "attempt", "started", "worker"))
    for job in jobs:
        started = "" if job.started_at is None else f"{job.started_at:%Y-%m-%dT%H:%M:%SZ}"
        user, kind, worker = (printable(one) for one in (job.user_id, job.kind, job.worker or ""))
        echo(_ROW.format(job.id, user, kind, job.attempt, started, worker))
    note(
        f"{counted(running, 'attempt still runs', 'attempts still run')}: run the command again to "
        "wait longer, or stop the workers, which then return their jobs."
    )
