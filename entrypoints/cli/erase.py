"""`fairlog erase`: removes payloads, results and errors; the log can still be proven."""

import rich_click as click
from click.exceptions import Exit, UsageError

from adapters.doctor import may_erase
from domain.language import validation
from domain.language.errors import UnknownJob
from domain.language.events import JobSubmitted
from domain.language.identifiers import JobId
from entrypoints.cli.failure import CHECK_FAILED, CommandFailed
from entrypoints.cli.output import counted, echo, examples, has_terminal, note, printable, progress
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.processes.registration import check_settings
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.erasure import Erased, erase_job, erase_user


@click.command(
    epilog=examples("fairlog erase --user alice", "fairlog erase --job 1042 --cancel --yes")
)
@database_url_option
@click.option("--user", "user_id", metavar="ID", help="Erase all jobs of this user.")
@click.option("--job", "job_id", type=int, metavar="ID", help="Erase this job.")
@click.option(
    "--cancel",
    is_flag=True,
    help="First cancel jobs that have not ended. Without it, they keep their payloads.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def erase(
    database_url: str | None, *, user_id: str | None, job_id: int | None, cancel: bool, yes: bool
) -> None:
    """Remove payloads, results and errors permanently, and record that.

    Events stay, with the user's id, the idempotency keys and the hashes of what was removed, so
    that the chain, proofs and `fairlog verify` stay correct. The exit code is 1 if a job that has
    not ended keeps its payload.
    """
    if (user_id is None) == (job_id is None):
        raise UsageError("Give either --user or --job.")
    user = None if user_id is None else validation.user_id(user_id)
    job = None if job_id is None else validation.job_id(job_id)
    if not yes and not has_terminal():
        raise UsageError("There is no terminal on which to confirm the erasure: add --yes.")
    with open_log(database_url) as fairlog:
        _check(fairlog, job)
        if not yes:
            jobs = f"job {job}" if user is None else f"all jobs of {printable(user)}"
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
    _report(done)


def _check(fairlog: Fairlog, job_id: JobId | None) -> None:
    """Raises `UnknownJob`, and `CommandFailed` for an account that lacks the right."""
    if not may_erase(fairlog.database):
        raise CommandFailed(
            "The account lacks DELETE on bodies: GRANT it, or run `fairlog erase` with an account "
            "that has it (see docs/production.md)."
        )
    if job_id is not None:
        found = fairlog.read_now(lambda connection: fairlog.log.read(connection, job_id - 1, 1))
        if not (found and isinstance(found[0].event, JobSubmitted)):
            raise UnknownJob(job_id)


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
