"""`fairlog erase`: removes payloads, results and errors; the log can still be proven."""

from datetime import datetime
from functools import partial

import rich_click as click
from click.exceptions import Exit, UsageError
from sqlalchemy.engine import Connection

from adapters.doctor import may_erase
from adapters.log.archived import absence
from domain.language import validation
from domain.language.events import JobSubmitted
from domain.language.identifiers import JobId
from domain.language.moments import later
from entrypoints.cli.failure import CHECK_FAILED, CommandFailed
from entrypoints.cli.options import DURATION
from entrypoints.cli.output import counted, echo, examples, has_terminal, note, printable, progress
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.processes.registration import check_settings
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.erasure import Erased, count_older, erase_job, erase_older, erase_user


@click.command(
    epilog=examples(
        "fairlog erase --user alice",
        "fairlog erase --job 1042 --cancel --yes",
        "fairlog erase --bodies-older-than 90d --dry-run",
    )
)
@database_url_option
@click.option("--user", "user_id", metavar="ID", help="Erase all jobs of this user.")
@click.option("--job", "job_id", type=int, metavar="ID", help="Erase this job.")
@click.option(
    "--bodies-older-than",
    "age",
    type=DURATION,
    metavar="90d",
    help="Erase all jobs that ended longer ago than this. Other jobs are left alone.",
)
@click.option(
    "--dry-run", is_flag=True, help="With --bodies-older-than: count, and remove nothing."
)
@click.option(
    "--cancel",
    is_flag=True,
    help="First cancel jobs that have not ended. Without it, they keep their payloads.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def erase(
    database_url: str | None,
    *,
    user_id: str | None,
    job_id: int | None,
    age: float | None,
    dry_run: bool,
    cancel: bool,
    yes: bool,
) -> None:
    """Remove payloads, results and errors permanently, and record that.

    Events stay, with the user's id, the idempotency keys and the hashes of what was removed, so
    that the chain, proofs and `fairlog verify` stay correct. The exit code is 1 if a job that has
    not ended keeps its payload, except with --bodies-older-than, which is meant to run every day.
    It may be ended at any time; the next run continues.
    """
    if [user_id, job_id, age].count(None) != 2:  # noqa: PLR2004 (all but one)
        raise UsageError("Give one of --user, --job and --bodies-older-than.")
    if age is None and dry_run:
        raise UsageError("--dry-run needs --bodies-older-than.")
    if age is not None and cancel:
        raise UsageError("--cancel needs --user or --job: open jobs are not older than anything.")
    if age is not None and dry_run:
        _count_older(database_url, age)
        return
    user = None if user_id is None else validation.user_id(user_id)
    job = None if job_id is None else validation.job_id(job_id)
    if not yes and not has_terminal():
        raise UsageError("There is no terminal on which to confirm the erasure: add --yes.")
    with open_log(database_url) as fairlog:
        _check(fairlog, job)
        if not yes:
            jobs = "all jobs that ended so long ago"
            if job is not None:
                jobs = f"job {job}"
            elif user is not None:
                jobs = f"all jobs of {printable(user)}"
            click.confirm(
                f"Remove payloads, results and errors of {jobs} permanently?", abort=True, err=True
            )
        check_settings(fairlog)
        fairlog.writer.start()
        if job is not None:
            done = erase_job(fairlog, job, cancel=cancel)
        elif user is not None:
            with progress("erasing") as report:
                done = erase_user(fairlog, user, cancel=cancel, progress=report)
        elif age is not None:
            with progress("erasing") as report:
                done = erase_older(fairlog, _moment(fairlog, age), progress=report)
    _report(done)


def _count_older(database_url: str | None, age: float) -> None:
    with open_log(database_url) as fairlog:
        check_settings(fairlog)
        fairlog.writer.start()  # it saves rows that are behind the log
        with progress("counting") as report:
            found = count_older(fairlog, _moment(fairlog, age), progress=report)
    bodies = counted(found.bodies, "body", "bodies")
    echo(f"Would erase {bodies} of {counted(found.jobs, 'job', 'jobs')}.")


def _moment(fairlog: Fairlog, age: float) -> datetime:
    """Return the moment so many seconds ago, by the log's clock."""
    return later(fairlog.read_now(fairlog.log.now), -age)


def _check(fairlog: Fairlog, job_id: JobId | None) -> None:
    """Raises `UnknownJob`, and `CommandFailed` for an account that lacks the right."""
    if not may_erase(fairlog.database):
        raise CommandFailed(
            "The account lacks DELETE on bodies: GRANT it, or run `fairlog erase` with an account "
            "that has it (see docs/production.md)."
        )
    if job_id is not None and not fairlog.read_now(partial(_exists, fairlog, job_id=job_id)):
        raise fairlog.read_now(partial(absence, job_id=job_id))


def _exists(fairlog: Fairlog, connection: Connection, job_id: JobId) -> bool:
    if job_id <= fairlog.log.cut(connection).position:
        return bool(fairlog.jobs.find(connection, [job_id]))
    found = fairlog.log.read(connection, job_id - 1, 1)
    return bool(found) and isinstance(found[0].event, JobSubmitted)


def _report(done: Erased) -> None:
    bodies = counted(done.bodies, "body", "bodies")
    echo(f"Erased {bodies} of {counted(done.jobs, 'job', 'jobs')}.")
    if done.open:
        left = counted(
            done.open,
            "job has not ended and keeps its payload",
            "jobs have not ended and keep their payloads",
        )
        note(f"{left}: wait until they have ended, or run the command again with --cancel.")
        raise Exit(CHECK_FAILED)
