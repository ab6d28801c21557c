"""`fairlog schedules`: list, show, set, pause, resume, trigger, backfill and delete schedules.

They work on the database itself, as `fairlog plans` does, and so need no key.
"""

import asyncio
from typing import Any, Final

import msgspec
import rich_click as click

from adapters.clock import SystemClock
from domain.decisions.answers import ScheduleDecided
from domain.language import validation
from domain.language.commands import (
    BackfillSchedule,
    DeleteSchedule,
    ScheduleCommand,
    SetSchedule,
    TriggerSchedule,
)
from domain.language.errors import UnknownSchedule
from domain.language.identifiers import ScheduleName
from domain.language.moments import to_text
from domain.language.schedules import CATCH_UP_SECONDS, Overlap
from domain.schedules.schedule import Schedule
from entrypoints.cli.options import format_option, json_of
from entrypoints.cli.output import echo, examples, note, printable
from entrypoints.cli.session import database_url_option, open_writer
from entrypoints.http.paging import PAGE_MAX
from entrypoints.http.schedule_requests import BackfillSpan, ScheduleChange
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.schedule_views import (
    PastScheduleView,
    RunView,
    ScheduleView,
    schedule_view,
)
from entrypoints.service.schedules import schedule_page

_form: Final = format_option("text", "json", text="Text for people, or JSON.")


@click.group()
def schedules() -> None:
    """List, show, set and run schedules: jobs that are submitted again and again."""


@schedules.command("list", epilog=examples("fairlog schedules list --format json"))
@database_url_option
@_form
def list_schedules(database_url: str | None, *, form: str) -> None:
    """List all schedules by name, with their next and latest runs."""
    with open_writer(database_url, submits=False) as fairlog:
        after: str | None = ""
        while after is not None:
            page = asyncio.run(schedule_page(fairlog, after, PAGE_MAX))
            for one in page.schedules:
                echo(msgspec.json.encode(one).decode() if form == "json" else schedule_line(one))
            after = page.next


@schedules.command("show", epilog=examples("fairlog schedules show nightly"))
@database_url_option
@click.argument("name")
@_form
def show_schedule(database_url: str | None, *, name: str, form: str) -> None:
    """Show a schedule, its next due times and its latest run."""
    with open_writer(database_url, submits=False) as fairlog:
        view = schedule_view(_known(fairlog, validation.schedule_name(name)))
    written = msgspec.json.encode(view)
    if form == "json":
        echo(written.decode())
        return
    for field, value in msgspec.json.decode(written).items():
        echo(f"{field.replace('_', ' ')}: {_text(value)}")


@schedules.command(
    "set",
    epilog=examples(
        "fairlog schedules set nightly --user acme --kind report --cron '30 3 * * *' "
        "--time-zone Europe/Berlin",
        "fairlog schedules set poll --user acme --kind poll --every 300 --overlap buffer_one",
    ),
)
@database_url_option
@click.argument("name")
@click.option("--user", "user_id", required=True, help="The user whose jobs it submits.")
@click.option("--kind", required=True, help="The kind of its jobs.")
@click.option("--payload", default="null", metavar="JSON", help="The payload of each job.")
@click.option("--cron", help="A cron expression of five fields.")
@click.option("--every", "every_seconds", type=int, metavar="SECONDS", help="An interval.")
@click.option("--time-zone", default="UTC", help="The IANA time zone of --cron.")
@click.option(
    "--overlap",
    type=click.Choice([one.value for one in Overlap]),
    default=Overlap.SKIP.value,
    help="What happens while the latest job has not ended. Default: skip.",
)
@click.option(
    "--catch-up",
    "catch_up_seconds",
    type=int,
    default=CATCH_UP_SECONDS,
    metavar="SECONDS",
    help=f"How late a due time may still be run. Default: {CATCH_UP_SECONDS}",
)
@click.option(
    "--jitter",
    "jitter_seconds",
    type=int,
    default=0,
    metavar="SECONDS",
    help="Each due time is put off by up to so much.",
)
@click.option("--paused", is_flag=True, help="Make it, but let no time be due yet.")
def set_schedule(  # noqa: PLR0913 (an option each)
    database_url: str | None,
    *,
    name: str,
    user_id: str,
    kind: str,
    payload: str,
    cron: str | None,
    every_seconds: int | None,
    time_zone: str,
    overlap: str,
    catch_up_seconds: int,
    jitter_seconds: int,
    paused: bool,
) -> None:
    """Make a schedule, or replace it: what is not given has its default."""
    change = ScheduleChange(
        user_id=user_id,
        kind=kind,
        payload=json_of(payload, "--payload"),
        cron=cron,
        every_seconds=every_seconds,
        time_zone=time_zone,
        overlap=Overlap(overlap),
        catch_up_seconds=catch_up_seconds,
        jitter_seconds=jitter_seconds,
        paused=paused,
    )
    command = change.to_command(validation.schedule_name(name), SystemClock().now())
    with open_writer(database_url, submits=False) as fairlog:
        _show_next(_decide(fairlog, command))


@schedules.command("pause", epilog=examples("fairlog schedules pause nightly"))
@database_url_option
@click.argument("name")
def pause_schedule(database_url: str | None, *, name: str) -> None:
    """Let no time be due until `fairlog schedules resume`. None of this time is caught up."""
    _set_paused(database_url, name, paused=True)


@schedules.command("resume", epilog=examples("fairlog schedules resume nightly"))
@database_url_option
@click.argument("name")
def resume_schedule(database_url: str | None, *, name: str) -> None:
    """Go on with the next due time."""
    _set_paused(database_url, name, paused=False)


@schedules.command("trigger", epilog=examples("fairlog schedules trigger nightly"))
@database_url_option
@click.argument("name")
def trigger_schedule(database_url: str | None, *, name: str) -> None:
    """Run a schedule now, by its overlap policy, whether it is paused or not.

    Its job counts against the limits, so this is refused while a server runs with other limits.
    """
    with open_writer(database_url) as fairlog:
        decided = _decide(fairlog, TriggerSchedule(name=validation.schedule_name(name)))
    assert decided.run is not None, decided
    job = "" if decided.run.job is None else f" job {decided.run.job}"
    echo(f"{decided.run.outcome.value}{job}")


@schedules.command(
    "backfill",
    epilog=examples(
        "fairlog schedules backfill nightly --from 2026-01-01T00:00:00Z "
        "--until 2026-01-15T00:00:00Z"
    ),
)
@database_url_option
@click.argument("name")
@click.option("--from", "start", required=True, metavar="TIME", help="Inclusive, RFC 3339.")
@click.option("--until", "end", required=True, metavar="TIME", help="Exclusive, RFC 3339.")
def backfill_schedule(database_url: str | None, *, name: str, start: str, end: str) -> None:
    """Run each due time of a span of the past once, oldest first; at most 1,000.

    The running servers do it; this command only asks for it.
    """
    span = BackfillSpan(validation.time(start, "--from"), validation.time(end, "--until"))
    command: BackfillSchedule = span.to_command(validation.schedule_name(name))
    with open_writer(database_url, submits=False) as fairlog:
        _decide(fairlog, command)
    note("Begun; the servers go on with it.")


@schedules.command("delete", epilog=examples("fairlog schedules delete nightly"))
@database_url_option
@click.argument("name")
def delete_schedule(database_url: str | None, *, name: str) -> None:
    """Delete a schedule. Its jobs are left alone."""
    with open_writer(database_url, submits=False) as fairlog:
        _decide(fairlog, DeleteSchedule(name=validation.schedule_name(name)))
    note("Deleted.")


def _decide(fairlog: Fairlog, command: ScheduleCommand) -> ScheduleDecided:
    decided = fairlog.execute_now(command)
    assert isinstance(decided, ScheduleDecided), decided
    return decided


def _known(fairlog: Fairlog, name: ScheduleName) -> Schedule:
    found = fairlog.read_now(
        fairlog.with_saved_rows(lambda connection: fairlog.schedules.find(connection, name))
    )
    if found is None:
        raise UnknownSchedule(name)
    return found


def _set_paused(database_url: str | None, name: str, *, paused: bool) -> None:
    with open_writer(database_url, submits=False) as fairlog:
        event = _known(fairlog, validation.schedule_name(name)).set
        command = SetSchedule(
            name=event.name,
            user_id=event.user_id,
            kind=event.kind,
            payload=event.payload,
            timing=event.timing,
            overlap=event.overlap,
            catch_up_seconds=event.catch_up_seconds,
            paused=paused,
        )
        _show_next(_decide(fairlog, command))


def _show_next(decided: ScheduleDecided) -> None:
    schedule = decided.schedule
    if schedule is not None:
        due_at = schedule.due_at
        note("Paused." if due_at is None else f"The next due time is {to_text(due_at)}.")


def schedule_line(view: ScheduleView | PastScheduleView) -> str:
    """Return a schedule as one line of text."""
    when = f"every {view.every_seconds:,} s" if view.cron is None else view.cron
    zone = "" if view.cron is None else f" {view.time_zone}"
    next_due_at = (
        view.next_due_at
        if isinstance(view, PastScheduleView)
        else next(iter(view.next_due_at), None)
    )
    due = "paused" if next_due_at is None else f"next {to_text(next_due_at)}"
    last = "not run yet" if view.last_run is None else f"latest {_run(view.last_run)}"
    named = (view.name, f"user {view.user_id}", f"kind {view.kind}", f"{when}{zone}")
    return "; ".join([*map(printable, named), due, last])


def _run(run: RunView) -> str:
    job = "" if run.job_id is None else f" as job {run.job_id}"
    return f"{to_text(run.due_at)} {run.outcome.value}{job}"


def _text(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return printable(value)
    return printable(msgspec.json.encode(value).decode())
