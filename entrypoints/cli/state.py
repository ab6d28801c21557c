"""`fairlog audit state`: jobs, the waiting line and what was set, at a moment of the past."""

from functools import partial

import msgspec
import rich_click as click
from click.exceptions import UsageError

from domain.language import validation
from domain.language.events import Scope
from entrypoints.cli.callbacks import callback_line
from entrypoints.cli.keys import key_line
from entrypoints.cli.limits import value_text
from entrypoints.cli.options import format_option, limit_option
from entrypoints.cli.output import echo, examples, printable
from entrypoints.cli.schedules import schedule_line
from entrypoints.cli.session import archive_option, database_url_option, open_log
from entrypoints.service.past_views import LimitView, PastStateView
from entrypoints.service.views import JobView
from entrypoints.use_cases.time_travel import JOBS_SHOWN_MAX, TimeTravel


@click.command(
    epilog=examples(
        "fairlog audit state --as-of 1042",
        "fairlog audit state --as-of 2026-01-31T12:00:00Z --format json",
        "fairlog audit state --as-of 1042 --job 17",
    )
)
@database_url_option
@archive_option
@click.option(
    "--as-of",
    "moment",
    required=True,
    metavar="POSITION|TIME",
    help="After the event at this position, or after all events recorded by this time.",
)
@click.option("--job", "job_id", type=int, metavar="ID", help="Only this job.")
@click.option("--user", "user_id", metavar="ID", help="Only this user's jobs, newest first.")
@limit_option(100, "The maximum number of jobs with --user.", most=JOBS_SHOWN_MAX)
@format_option("text", "json", text="Text for people, or JSON (one object per line).")
def state(
    database_url: str | None,
    *,
    archive: str | None,
    moment: str,
    job_id: int | None,
    user_id: str | None,
    limit: int,
    form: str,
) -> None:
    """Show the state of the system at a position of the log, or at a time."""
    if job_id is not None and user_id is not None:
        raise UsageError("Give either --job or --user, or neither.")
    then = validation.as_of(moment)
    with open_log(database_url, archive) as fairlog:
        past = TimeTravel(fairlog)
        if job_id is not None:
            job = validation.job_id(job_id)
            view = fairlog.read_now(lambda connection: past.job(connection, job, then))
            echo(_as_json(view) if form == "json" else _job(view))
        elif user_id is not None:
            user = validation.user_id(user_id)
            jobs = fairlog.read_now(
                lambda connection: past.jobs_of_user(connection, user, then, limit)
            )
            for one in jobs:  # one after the other: each may have three bodies of 1 MiB
                view = fairlog.read_now(partial(past.view, job=one))
                echo(_as_json(view) if form == "json" else _job(view))
        else:
            found = fairlog.read_now(lambda connection: past.state(connection, then))
            echo(_as_json(found) if form == "json" else _as_text(found))


def _as_json(view: PastStateView | JobView) -> str:
    return msgspec.json.encode(view).decode()


def _job(job: JobView) -> str:
    return (
        f"job {job.id} of {printable(job.user_id)} ({printable(job.kind)}): {job.state.value}, "
        f"attempt {job.attempt}, {job.failures} of at most {job.max_attempts} failed, "
        f"submitted {job.submitted_at:%Y-%m-%dT%H:%M:%S.%fZ}"
    )


def _as_text(state: PastStateView) -> str:
    window = state.global_
    lines = [
        f"position {state.position}, recorded {state.recorded_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "jobs: " + ", ".join(f"{count:,} {name.value}" for name, count in state.jobs.items()),
        f"all users together: {window.used:,} of {window.limit:,} submissions in the window",
    ]
    lines += [
        f"kind {printable(kind.kind)}: {kind.waiting:,} waiting, {kind.running:,} running"
        + ("" if kind.running_limit is None else f" of {kind.running_limit:,}")
        for kind in state.line.kinds
    ]
    lines += [
        f"{place}. in line: {printable(turn.user_id)}, {turn.waiting:,} waiting, "
        f"{turn.running:,} running, turn {turn.turn}"
        for place, turn in enumerate(state.line.next, start=1)
    ]
    lines += [_limit(limit) for limit in state.limits]
    if more := state.limits_total - len(state.limits):
        lines.append(f"and {more:,} more limits")
    lines += [f"schedule {schedule_line(schedule)}" for schedule in state.schedules]
    if more := state.schedules_total - len(state.schedules):
        lines.append(f"and {more:,} more schedules")
    lines += [f"callbacks {callback_line(callback)}" for callback in state.callbacks]
    lines += [f"key {key_line(key)}" for key in state.keys]
    return "\n".join(lines)


def _limit(limit: LimitView) -> str:
    names = {
        Scope.GLOBAL: "all users together",
        Scope.USER: f"user {limit.user_id}",
        Scope.KIND: f"kind {limit.kind}",
        Scope.USER_KIND: f"kind {limit.kind} of user {limit.user_id}",
        Scope.PLAN: f"plan {limit.plan}",
        Scope.RESOURCE: f"resource {limit.resource}",
    }
    submissions = "the default" if limit.limit is None else f"{limit.limit:,}"
    running = "no cap" if limit.running is None else f"{limit.running:,}"
    others = {
        name: value
        for name, value in msgspec.to_builtins(limit.set).items()
        if name not in {"limit", "running"} and not (limit.scope is Scope.PLAN and name == "plan")
    }
    return (
        f"limit of {printable(names[limit.scope])}: {submissions} submissions a window, "
        f"{running} running at once"
        + "".join(f", {name} {value_text(value)}" for name, value in others.items())
    )
