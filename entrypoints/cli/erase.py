"""`fairlog erase`: removes payloads, results and errors; the log can still be proven."""

from datetime import datetime
from functools import partial

import rich_click as click
from click.exceptions import Exit, UsageError
from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.doctor import may_erase
from adapters.log import archived
from adapters.log.archived import absence
from domain.language import validation
from domain.language.errors import JobArchived
from domain.language.events import JobSubmitted
from domain.language.identifiers import JobId, UserId
from domain.language.moments import later
from entrypoints.cli.failure import CHECK_FAILED, CommandFailed
from entrypoints.cli.options import DURATION
from entrypoints.cli.output import counted, echo, examples, has_terminal, note, printable, progress
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.processes.registration import check_settings
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archived_erasure import (
    count_archived,
    erase_archived,
    erase_archived_job,
)
from entrypoints.use_cases.erasure import Erased, count_older, erase_job, erase_older, erase_user
from entrypoints.use_cases.segment_erasure import Rewritten, check_place, rewrite_segments


@click.command(
    epilog=examples(
        "fairlog erase --user alice",
        "fairlog erase --job 1042 --cancel --yes",
        "fairlog erase --bodies-older-than 90d --dry-run",
        "fairlog erase --user alice --archive /var/backups/fairlog",
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
@click.option(
    "--archive",
    "location",
    metavar="DIR|URL",
    help="The archive of this log: erase jobs in it too, and write files with erased bodies anew.",
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
    location: str | None,
    yes: bool,
) -> None:
    """Remove payloads, results and errors permanently, and record that.

    Events stay, with the user's id, the idempotency keys and the hashes of what was removed, so
    that the chain, proofs and `fairlog verify` stay correct. With --archive, segments that have
    erased bodies are written anew without them, and the earlier files removed; also those of
    earlier erasures. The exit code is 1 if a job that has not ended keeps its payload, except with
    --bodies-older-than, which is meant to run every day. It may be ended at any time; the next run
    continues.
    """
    if [user_id, job_id, age].count(None) != 2:  # noqa: PLR2004 (all but one)
        raise UsageError("Give one of --user, --job and --bodies-older-than.")
    if age is None and dry_run:
        raise UsageError("--dry-run needs --bodies-older-than.")
    if age is not None and cancel:
        raise UsageError("--cancel needs --user or --job: open jobs are not older than anything.")
    if age is not None and dry_run:
        _count_older(database_url, age, location)
        return
    archive = None if location is None else Archive(location)
    user = None if user_id is None else validation.user_id(user_id)
    job = None if job_id is None else validation.job_id(job_id)
    if not yes and not has_terminal():
        raise UsageError("There is no terminal on which to confirm the erasure: add --yes.")
    with open_log(database_url) as fairlog:
        _check(fairlog, job, archive)
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
        moment = None if age is None else _moment(fairlog, age)
        done = _erase_live(fairlog, user, job, moment, cancel=cancel)
        rewritten = None
        if archive is not None:
            _erase_archived(fairlog, archive.location, user, job, moment, done)
            with progress("writing segments anew") as report:
                rewritten = rewrite_segments(fairlog, archive, report)
        elif fairlog.read_now(archived.segments):
            note("Bodies in the archive stay: run it again with --archive DIR to erase them too.")
    _report(done, rewritten)


def _erase_live(
    fairlog: Fairlog,
    user_id: UserId | None,
    job_id: JobId | None,
    moment: datetime | None,
    *,
    cancel: bool,
) -> Erased:
    """Erase jobs that have rows."""
    if job_id is not None:
        return erase_job(fairlog, job_id, cancel=cancel)
    with progress("erasing") as report:
        if user_id is not None:
            return erase_user(fairlog, user_id, cancel=cancel, progress=report)
        assert moment is not None
        return erase_older(fairlog, moment, progress=report)


def _erase_archived(
    fairlog: Fairlog,
    location: str,
    user_id: UserId | None,
    job_id: JobId | None,
    moment: datetime | None,
    done: Erased,
) -> None:
    """Erase archived jobs, if there are any, and add them to the counts."""
    if not fairlog.read_now(archived.segments):
        return
    if job_id is not None:
        erase_archived_job(fairlog, location, job_id, done)
        return
    with progress("erasing archived jobs") as report:
        erase_archived(
            fairlog, location, done, user_id=user_id, ended_before=moment, progress=report
        )


def _count_older(database_url: str | None, age: float, location: str | None) -> None:
    with open_log(database_url) as fairlog:
        check_settings(fairlog)
        fairlog.writer.start()  # it saves rows that are behind the log
        moment = _moment(fairlog, age)
        with progress("counting") as report:
            found = count_older(fairlog, moment, progress=report)
            if location is not None and fairlog.read_now(archived.segments):
                count_archived(fairlog, location, found, moment, progress=report)
    bodies = counted(found.bodies, "body", "bodies")
    echo(f"Would erase {bodies} of {counted(found.jobs, 'job', 'jobs')}.")


def _moment(fairlog: Fairlog, age: float) -> datetime:
    """Return the moment so many seconds ago, by the log's clock."""
    return later(fairlog.read_now(fairlog.log.now), -age)


def _check(fairlog: Fairlog, job_id: JobId | None, archive: Archive | None) -> None:
    """Raises `UnknownJob`, what `check_place` raises, and `CommandFailed` for an account that lacks
    the right or an archived job without --archive.
    """
    if not may_erase(fairlog.database):
        raise CommandFailed(
            "The account lacks DELETE on bodies: GRANT it, or run `fairlog erase` with an account "
            "that has it (see docs/production.md)."
        )
    if archive is not None:
        check_place(fairlog, archive)
    if job_id is None or fairlog.read_now(partial(_exists, fairlog, job_id=job_id)):
        return
    unknown = fairlog.read_now(partial(absence, job_id=job_id))
    if not isinstance(unknown, JobArchived):
        raise unknown
    if archive is None:
        where = "the archive" if unknown.segment is None else f"the segment {unknown.segment}"
        raise CommandFailed(
            f"Job {job_id} is archived: its events are in {where}. Erase it with --archive DIR."
        )


def _exists(fairlog: Fairlog, connection: Connection, job_id: JobId) -> bool:
    """Return True if the job has a row, or will have one once the projections are up to date."""
    if job_id <= fairlog.log.cut(connection).position:
        return bool(fairlog.jobs.find(connection, [job_id]))
    found = fairlog.log.read(connection, job_id - 1, 1)
    return bool(found) and isinstance(found[0].event, JobSubmitted)


def _report(done: Erased, rewritten: Rewritten | None) -> None:
    bodies = counted(done.bodies, "body", "bodies")
    echo(f"Erased {bodies} of {counted(done.jobs, 'job', 'jobs')}.")
    if rewritten is not None and rewritten.segments:
        segments = counted(rewritten.segments, "segment", "segments")
        bodies = counted(rewritten.bodies, "body", "bodies")
        echo(f"Wrote {segments} anew, without {bodies}.")
    if done.open:
        left = counted(
            done.open,
            "job has not ended and keeps its payload",
            "jobs have not ended and keep their payloads",
        )
        note(f"{left}: wait until they have ended, or run the command again with --cancel.")
        raise Exit(CHECK_FAILED)
