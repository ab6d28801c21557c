"""`fairlog jobs`, `job`, `explain`, `submit`, `cancel` and `retry`: they work on the database.

Like the other commands they need no server, but its database: whoever types at the server's
terminal has the same settings. What they write is decided as a server would decide it; they are
refused while a server runs with other limits.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import rich_click as click
from click.exceptions import Exit
from msgspec import UNSET, Raw

from domain.decisions.answers import JobUpdated, Submitted
from domain.jobs.job import Job, State
from domain.language import validation
from domain.language.commands import CancelJob, RetryJob
from domain.language.errors import InvalidInput, UnknownJob
from domain.language.identifiers import JobId
from entrypoints.cli.event_filters import TimeParameter, since_option, until_option
from entrypoints.cli.failure import CHECK_FAILED
from entrypoints.cli.options import format_option, json_of, limit_option
from entrypoints.cli.output import counted, echo, examples, note, printable
from entrypoints.cli.session import database_url_option, open_writer
from entrypoints.http.requests import Submission
from entrypoints.http.strict_json import read_json
from entrypoints.runtime.text import message_of
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.pages import SHORTENED_ERRORS
from entrypoints.service.views import JobView, as_duplicate
from entrypoints.use_cases.explain import explanation_of, input_of
from entrypoints.use_cases.find_jobs import JobConditions, find_jobs

_IDS_MAX: Final = 20  # of the jobs that a job comes after
_ROW: Final = "{:>10}  {:<20}  {:<16}  {:<9}  {:>7}  {:<20}  {}"
_JOBS_PER_PAGE: Final = 1000
_RETRIED_AT_ONCE: Final = 100
_CHARACTERS_MAX: Final = {"user": 20, "kind": 16, "error": 60}

F = TypeVar("F", bound=Callable[..., object])

_user_option = click.option("--user", "user_id", metavar="ID", help="Only jobs of this user.")
_kind_option = click.option("--kind", metavar="KIND", help="Only jobs of this kind.")
_error_option = click.option(
    "--error",
    "error_contains",
    metavar="TEXT",
    help="Only jobs whose latest error has this text, case-sensitive.",
)
_format_option = format_option(
    "text", "json", text="Text for people, or one JSON object per line as in the API."
)


@click.command(
    epilog=examples(
        "fairlog jobs --state failed --kind export",
        "fairlog jobs --user alice --since 2026-01-31T12:00:00Z --format json",
    )
)
@database_url_option
@_user_option
@click.option(
    "--state", type=click.Choice([one.value for one in State]), help="Only jobs in this state."
)
@_kind_option
@_error_option
@since_option
@until_option
@click.option(
    "--key",
    "idempotency_key",
    metavar="KEY",
    help="Only the job that this idempotency key of --user identifies.",
)
@limit_option(20, "The maximum number of jobs.")
@_format_option
def jobs(database_url: str | None, *, limit: int, form: str, **conditions: Any) -> None:  # noqa: ANN401 (see `_conditions`)
    """List jobs, newest first. If several conditions are given, all must hold."""
    wanted = _conditions(**conditions)
    with open_writer(database_url, submits=False) as fairlog:
        shown = 0
        for page in _pages(fairlog, wanted, limit):
            views = fairlog.read_now(partial(fairlog.views, jobs=page, included=SHORTENED_ERRORS))
            if form == "text" and views and not shown:
                echo(_ROW.format("id", "user", "kind", "state", "attempt", "submitted", "error"))
            for view in views:
                echo(_as_json(view) if form == "json" else _as_row(view))
            shown += len(views)
        if not shown:
            note("No job matches.")


@click.command(epilog=examples("fairlog job 1042", "fairlog job 1042 --format json"))
@database_url_option
@click.argument("job_id", type=int, metavar="ID")
@_format_option
def job(database_url: str | None, *, job_id: int, form: str) -> None:
    """Show one job, with payload, result and error. `fairlog audit --job ID` shows its events."""
    wanted = validation.job_id(job_id)
    with open_writer(database_url, submits=False) as fairlog:
        query = fairlog.with_saved_rows(partial(fairlog.jobs.find, job_ids=[wanted]))
        found = fairlog.read_now(query)
        if not found:
            raise UnknownJob(wanted)
        [view] = fairlog.read_now(lambda connection: fairlog.views(connection, [found[wanted]]))
        echo(_as_json(view) if form == "json" else _as_text(view))


@click.command("explain", epilog=examples("fairlog explain 1042", "fairlog explain 1042 --json"))
@database_url_option
@click.argument("job_id", type=int, metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="The JSON object of the API.")
def explain_job(database_url: str | None, *, job_id: int, as_json: bool) -> None:
    """Say why a job has not run yet, or how it ended: the sentences of the API, one a line."""
    wanted = validation.job_id(job_id)
    with open_writer(database_url, submits=False) as fairlog:
        query = fairlog.with_saved_rows(partial(input_of, fairlog, job_id=wanted))
        view = explanation_of(fairlog.read_now(query))
    if as_json:
        echo(msgspec.json.encode(view).decode())
        return
    for sentence in [view["summary"], *(one["text"] for one in view["reasons"][1:])]:
        echo(printable(sentence))


@click.command(
    epilog=examples(
        """fairlog submit --user alice --kind echo --payload '{"hello": "world"}'""",
        "fairlog submit --user alice --kind thumbnail --payload - < payload.json",
    )
)
@database_url_option
@click.option("--user", "user_id", required=True, metavar="ID", help="The user who owns the job.")
@click.option("--kind", required=True, metavar="KIND", help="The handler that runs it.")
@click.option(
    "--payload",
    default="null",
    metavar="JSON",
    help="The handler's input; - reads it from standard input. Default: null",
)
@click.option(
    "--key",
    "idempotency_key",
    metavar="KEY",
    help="An idempotency key: the same key again is the same job.",
)
@click.option(
    "--deduplicate/--no-deduplicate",
    default=None,
    help="Without a key: an equal submission is the same job, or a new one. Default: as "
    "FAIRLOG_DEDUPLICATE says.",
)
@click.option("--run-at", type=TimeParameter(), metavar="TIME", help="It does not start before.")
@click.option(
    "--expires-at", type=TimeParameter(), metavar="TIME", help="It is cancelled if not started."
)
@click.option("--timeout-seconds", type=float, metavar="S", help="The longest run of an attempt.")
@click.option("--max-attempts", type=int, metavar="N", help="How many attempts may fail.")
@click.option(
    "--retry",
    metavar="JSON",
    help="""A retry policy, like '{"attempts": 15, "base_seconds": 10, "factor": 3}'.""",
)
@click.option(
    "--priority",
    type=int,
    default=0,
    metavar="N",
    help="-1000 to 1000: a higher one starts sooner, among the user's own jobs. Default: 0",
)
@click.option(
    "--resource",
    "resources",
    multiple=True,
    metavar="NAME",
    help="What the job uses, like shopify:acme; its limits hold for all jobs that name it. "
    "At most three.",
)
@click.option(
    "--after",
    multiple=True,
    type=int,
    metavar="ID",
    help="A job that must have ended before this one starts. May be repeated.",
)
@click.option(
    "--after-failure",
    type=click.Choice(validation.AFTER_FAILURES),
    help="What becomes of the job if one of those fails or is cancelled. Default: fail",
)
@click.option("--callback", metavar="URL", help="It is sent a signed message when the job ends.")
@_format_option
def submit(
    database_url: str | None,
    *,
    payload: str,
    form: str,
    callback: str | None,
    **fields: Any,  # noqa: ANN401 (the fields of `Submission`)
) -> None:
    """Submit a job. It counts against the limits as through the API."""
    text = sys.stdin.read() if payload == "-" else payload
    fields |= {"payload": json_of(text, "--payload")}
    if callback is not None:
        fields |= {"callback": {"url": callback}}
    command = _submission(fields).to_command()
    with open_writer(database_url) as fairlog:
        outcome = fairlog.execute_now(command)
        assert isinstance(outcome, Submitted), outcome
        submitted = outcome.job
        [view] = fairlog.read_now(lambda connection: fairlog.views(connection, [submitted]))
    view.is_duplicate = False
    if outcome.is_duplicate:
        as_duplicate(view, submitted)
    if form == "json":
        echo(_as_json(view))
        return
    echo(f"Job {view.id} is {view.state.value}.")
    if view.duplicate is not UNSET:
        note(printable(view.duplicate.reason))


@click.command(epilog=examples("fairlog cancel 1042 1043"))
@database_url_option
@click.argument("job_ids", type=int, nargs=-1, required=True, metavar="ID...")
def cancel(database_url: str | None, *, job_ids: Sequence[int]) -> None:
    """Cancel jobs that have not ended. A running handler is notified.

    The exit code is 1 if a job could not be cancelled.
    """
    commands = [CancelJob(job_id=validation.job_id(one)) for one in job_ids]
    with open_writer(database_url) as fairlog:
        outcomes = fairlog.writer.execute_all(commands)
    _report("Cancelled", outcomes)


@click.command(
    epilog=examples("fairlog retry 1042", "fairlog retry --kind export --error 'disk full'")
)
@database_url_option
@click.argument("job_ids", type=int, nargs=-1, metavar="[ID]...")
@_user_option
@_kind_option
@_error_option
@since_option
@until_option
@click.option(
    "--state",
    type=click.Choice(["failed", "cancelled"]),
    default="failed",
    show_default=True,
    help="The state of the jobs that the conditions select.",
)
@limit_option(100, "The maximum number of jobs that the conditions select.")
def retry(
    database_url: str | None,
    *,
    job_ids: Sequence[int],
    limit: int,
    state: str,
    **conditions: Any,  # noqa: ANN401 (see `_conditions`)
) -> None:
    """Retry failed or cancelled jobs: those with the ids, or the newest that meet all conditions.

    Each counts as a submission of its user. The exit code is 1 if a job could not be retried.
    """
    is_selection = any(value is not None for value in conditions.values())
    if bool(job_ids) == is_selection:
        raise click.UsageError("Give ids, or conditions like --kind and --error.")
    with open_writer(database_url) as fairlog:
        ids = [validation.job_id(one) for one in job_ids]
        if is_selection:
            wanted = _conditions(state=state, **conditions)
            ids = [one.id for page in _pages(fairlog, wanted, limit) for one in page]
        outcomes: list[object] = []
        for start in range(0, len(ids), _RETRIED_AT_ONCE):
            some = ids[start : start + _RETRIED_AT_ONCE]
            outcomes += fairlog.writer.execute_all([RetryJob(job_id=one) for one in some])
    if not outcomes:
        note("No job matches.")
    _report("Retried", outcomes)


def _conditions(
    *,
    user_id: str | None,
    kind: str | None,
    error_contains: str | None,
    since: datetime | None,
    until: datetime | None,
    state: str | None,
    idempotency_key: str | None = None,
) -> JobConditions:
    """Check the values of the options. Raises `InvalidInput`."""
    if idempotency_key is not None:
        if user_id is None:
            raise InvalidInput("--key needs --user, since each user has keys of its own.")
        idempotency_key = validation.idempotency_key(idempotency_key)
    if error_contains == "":
        raise InvalidInput("--error must have at least one character.")
    return JobConditions(
        user_id=None if user_id is None else validation.user_id(user_id),
        state=None if state is None else State(state),
        kind=None if kind is None else validation.kind(kind),
        error_contains=error_contains,
        since=since,
        until=until,
        idempotency_key=idempotency_key,
    )


def _pages(fairlog: Fairlog, wanted: JobConditions, jobs_max: int) -> Iterator[Sequence[Job]]:
    """Yield at most `jobs_max` jobs that match, newest first."""
    below: int | None = None
    while jobs_max > 0:
        most = min(jobs_max, _JOBS_PER_PAGE)
        query = partial(find_jobs, wanted=wanted, below=below, jobs_max=most)
        found = fairlog.read_now(fairlog.with_saved_rows(query))
        yield found.jobs
        jobs_max -= len(found.jobs)
        if found.next is None:
            return
        below = found.next


def _submission(fields: Mapping[str, Any]) -> Submission:
    """Check the options as the API checks a body. Raises `InvalidInput`."""
    retry = fields["retry"]
    given = fields if retry is None else {**fields, "retry": json_of(retry, "--retry")}
    submission: Submission = read_json(msgspec.json.encode(given), Submission)
    return submission


def _report(done: str, outcomes: Sequence[object]) -> None:
    changed: list[JobId] = [one.job.id for one in outcomes if isinstance(one, JobUpdated)]
    errors = [one for one in outcomes if isinstance(one, Exception)]
    if changed:
        echo(f"{done} {counted(len(changed), 'job', 'jobs')}: {', '.join(map(str, changed))}.")
    for sentence in dict.fromkeys(map(str, errors)):
        note(printable(sentence))
    if errors:
        raise Exit(CHECK_FAILED)


def _as_json(view: JobView) -> str:
    return msgspec.json.encode(view).decode()


def _as_row(view: JobView) -> str:
    error = "" if view.failure is None else f"{view.failure.type}: {view.failure.message}"
    return _ROW.format(
        view.id,
        _clipped(view.user_id, "user"),
        _clipped(view.kind, "kind"),
        view.state.value,
        view.attempt,
        f"{view.submitted_at:%Y-%m-%dT%H:%M:%SZ}",
        _clipped(error, "error"),
    ).rstrip()


def _numbered(job_ids: Sequence[int]) -> str:
    named = ", ".join(map(str, job_ids[:_IDS_MAX]))
    left = len(job_ids) - _IDS_MAX
    return f"{named} and {left} more" if left > 0 else named


def _clipped(text: str, column: str) -> str:
    shown, most = printable(text), _CHARACTERS_MAX[column]
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _as_text(view: JobView) -> str:
    moments = {
        "submitted": view.submitted_at,
        "due": view.run_at,
        "expires": view.expires_at,
        "started": view.started_at,
        "finished": view.finished_at,
    }
    rows = {
        "job": str(view.id),
        "user": printable(view.user_id),
        "kind": printable(view.kind),
        "state": view.state.value,
        "attempt": f"{view.attempt}, {view.failures} of at most {view.max_attempts} failed",
        **{name: f"{at:%Y-%m-%dT%H:%M:%S.%fZ}" for name, at in moments.items() if at is not None},
        "after": _numbered(view.after),
        "waits for": _numbered(view.waits_for),
        "worker": "" if view.worker is None else printable(view.worker),
        "key": printable(view.idempotency_key),
        "payload": _body(view.payload),
        "result": _body(view.result),
        "error": "" if view.error is UNSET else message_of(_unless_null(view.error)),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items() if text)


def _body(body: object) -> str:
    text = bytes(body).decode() if isinstance(body, Raw) else "null"
    return "" if text == "null" else printable(text)


def _unless_null(body: Raw) -> bytes | None:
    return None if bytes(body) == b"null" else bytes(body)
