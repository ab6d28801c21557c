"""Segments and database, read as one log, give the answers that the log gave before."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from msgspec.structs import replace

from adapters.archive.directory import Archive
from adapters.log.audit_log import EventFilter
from adapters.log.tables import bodies, events
from domain.jobs.job import ENDED
from domain.language.errors import FairlogError, SegmentUnusable
from domain.language.events import EVENT_TYPES
from domain.language.identifiers import JobId, KeyName
from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.export import pages
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.whole_history import whole_history
from projections.inline.jobs import STATE_NUMBERS, jobs
from tests.support import history
from tests.support.archives import write_up_to
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.crowd import crowd
from tests.support.history import ALICE, BOB, CAROL, Intruder

EVENTS: Final = 1_000
MICROSECOND: Final = timedelta(microseconds=1)

Answers = dict[str, bytes]


COMMANDS: Final = (
    "--all --format ndjson",
    "--limit 140",
    "--user alice --limit 9 --format csv",
    "--type JobFailed --all",
    "export --bodies",
    "export --by ci --format csv",
    "state --as-of 600",
    "state --as-of 900 --format json",
    "state --as-of 800 --user user-1 --format json",
    "head --at 500",
    "prove --position 77",
    "prove --consistency 700",
)


class Archived:
    """A log, its segments, and the answers it gave before anything was taken out of it."""

    def __init__(self, url: str, fairlog: Fairlog, location: Path) -> None:
        self.url = url
        self.fairlog = fairlog
        self.location = location
        self.end = fairlog.read_now(fairlog.log.position)
        self.cut = self.end * 9 // 10
        Prover(fairlog).catch_up()
        for projector in fairlog.projector_runner.projectors:
            while projector.step():
                pass
        self.before = answers(fairlog, self.end, self.cut)
        self.printed = {command: self.run(command) for command in COMMANDS}
        lasts = [130, 131, 700, self.cut]  # the second has one event
        self.segments = write_up_to(fairlog, Archive(location), lasts)

    def run(self, command: str, *more: str) -> str:
        """Return what `fairlog audit` prints."""
        arguments = command.split()
        done = CliRunner(env={"FAIRLOG_DATABASE_URL": self.url}).invoke(
            cli.commands["audit"], [*arguments, *more], standalone_mode=False
        )
        assert done.exception is None, done.exception
        return done.stdout

    def take_out(self) -> None:
        """Delete what is archived, with the rows of jobs that have ended."""
        Intruder(self.fairlog).run(
            events.delete().where(events.c.position <= self.cut),
            bodies.delete().where(bodies.c.position <= self.cut),
            jobs.delete().where(jobs.c.state.in_([STATE_NUMBERS[state] for state in ENDED])),
        )


@pytest.fixture(scope="module")
def archived(new_database_url: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    """The first test sees all rows still in the database; the others only what is not archived."""
    url, location = new_database_url(), tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch, told(url) as fairlog:
        patch.setattr("adapters.archive.segment_writer.ROWS_PER_GROUP", 97)
        yield Archived(url, fairlog, location)


@pytest.fixture(scope="module")
def taken_out(archived: Archived) -> Archived:
    archived.take_out()
    return archived


@contextmanager
def told(url: str) -> Iterator[Fairlog]:
    with history.service_with_history(url) as (fairlog, clock):
        crowd(fairlog, clock, EVENTS)
        yield fairlog


FILTERS: Final[Sequence[EventFilter]] = (
    EventFilter(),
    EventFilter(user_id=ALICE),
    EventFilter(user_id=CAROL, types=["JobSubmitted", "JobCompleted"]),
    EventFilter(types=["JobStarted"]),
    EventFilter(types=["LimitChanged", "ClockCorrected"]),
    EventFilter(by=KeyName("ci")),
    EventFilter(by=KeyName("root"), types=["KeyRevoked"]),
    EventFilter(user_id=BOB, by=KeyName("ci")),
)


def answers(fairlog: Fairlog, end: int, cut: int) -> Answers:
    """Every question of the past, with its answer byte for byte."""
    found: Answers = {}
    with fairlog.database.read() as connection:
        times = _times(fairlog, connection, end)
        for name, answer in _questions(fairlog, connection, end, cut, times):
            try:
                found[name] = msgspec.json.encode(answer())
            except FairlogError as error:
                found[name] = f"{type(error).__name__}: {error}".encode()
    return found


def _times(fairlog: Fairlog, connection: sa.Connection, end: int) -> list[datetime]:
    places = range(1, end + 1, end // 5)
    return [fairlog.past.read(connection, place - 1, 1)[0].recorded_at for place in places]


def _questions(
    fairlog: Fairlog, connection: sa.Connection, end: int, cut: int, times: list[datetime]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    past = fairlog.past
    ids = [event.job_id for event in past.read(connection, 0, end) if event.job_id is not None]
    some_jobs = sorted(set(ids))[:: max(1, len(set(ids)) // 60)]
    filters = [*FILTERS, *(EventFilter(job_id=JobId(job)) for job in some_jobs[::15])]
    for name, moment in (("since", times[3]), ("until", times[4])):
        filters.append(replace(FILTERS[1], **{name: moment}))
    filters.append(EventFilter(since=times[1], until=times[4]))
    yield (
        "type",
        lambda: [
            [event.position for event in past.find(connection, EventFilter(types=[one]), 0, end)]
            for one in EVENT_TYPES
        ],
    )
    for wanted in filters:
        for after in (0, 130, cut - 3, cut, end):
            yield f"find {wanted} {after}", partial(past.find, connection, wanted, after, 50)
        for below in (None, 131, cut + 1, end):
            newest = partial(past.find_newest, connection, wanted, below, 200)
            yield f"newest {wanted} {below}", newest
        for count in (0, 7, 150):
            for place in (end + 1, cut):
                before = partial(past.position_before_newest, connection, wanted, place, count)
                yield f"before {wanted} {count} {place}", before
        for with_bodies in (False, True):
            yield f"export {wanted} {with_bodies}", partial(_export, fairlog, wanted, with_bodies)
    for moment in (one + shift for one in times for shift in (-MICROSECOND, 0 * MICROSECOND)):
        yield f"first at {moment}", partial(past.first_at, connection, moment)
    travel = TimeTravel(fairlog)
    for as_of in (*range(1, end, end // 5), cut, cut + 1, end, *times):
        yield f"state {as_of}", partial(travel.state, connection, as_of)
        yield f"user {as_of}", partial(_jobs_of_alice, travel, connection, as_of)
        for job in some_jobs[::9]:
            yield f"job {job} {as_of}", partial(travel.job, connection, JobId(job), as_of)
    prover = Prover(fairlog)
    for place in (1, 2, 130, 131, 132, cut - 1, cut, cut + 1, end - 1, end):
        yield f"head {place}", partial(prover.head, connection, place)
        yield f"event {place}", partial(prover.prove_event, connection, place, None)
        yield f"growth {place}", partial(prover.prove_growth, connection, place, None)
    for job in some_jobs[::7]:
        yield f"proof {job}", partial(prover.prove_job, connection, JobId(job), None)


def _export(fairlog: Fairlog, wanted: EventFilter, with_bodies: bool) -> Any:  # noqa: FBT001
    end = fairlog.read_now(fairlog.log.position)
    return list(pages(fairlog, wanted, (3, end + 1), bodies=with_bodies))


def _jobs_of_alice(travel: TimeTravel, connection: sa.Connection, as_of: int | datetime) -> Any:
    found = travel.jobs_of_user(connection, ALICE, as_of, 20)
    return [travel.view(connection, job) for job in found]


def test_with_all_rows_still_in_the_database_the_answers_are_the_same(archived: Archived) -> None:
    with whole_history(archived.fairlog, str(archived.location)):
        now = answers(archived.fairlog, archived.end, archived.cut)
    assert [name for name, answer in archived.before.items() if now[name] != answer] == []
    assert len(now) == len(archived.before) > 300


def test_with_the_archived_rows_gone_the_answers_are_the_same(taken_out: Archived) -> None:
    with whole_history(taken_out.fairlog, str(taken_out.location)):
        now = answers(taken_out.fairlog, taken_out.end, taken_out.cut)
    assert [name for name, answer in taken_out.before.items() if now[name] != answer] == []


def test_an_archive_that_does_not_lead_to_the_database_is_refused(
    taken_out: Archived, tmp_path: Path, new_database_url: Any
) -> None:
    fairlog = taken_out.fairlog

    def refused(location: Path, what: str) -> None:
        with pytest.raises(SegmentUnusable, match=what), whole_history(fairlog, str(location)):
            pass

    refused(tmp_path, "There are no segments in")
    for segment in taken_out.segments[:2]:
        (tmp_path / segment.name).hardlink_to(taken_out.location / segment.name)
    refused(tmp_path, f"the database begins at {taken_out.cut + 1}: segments are missing")
    last = taken_out.segments[-1]
    (tmp_path / last.name).hardlink_to(taken_out.location / last.name)
    refused(tmp_path, "events 132 to 700, before it, are in no segment")
    (tmp_path / "broken.parquet").write_text("")
    refused(tmp_path, r"broken\.parquet is not a segment")
    other = tmp_path / "other"
    other.mkdir()
    with service(new_database_url(), clock=ManualClock()) as elsewhere:
        crowd(elsewhere, ManualClock(), 400)
        write_up_to(elsewhere, Archive(other), [taken_out.cut])
    refused(other, "belongs to another log|segments are missing")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_print_what_they_printed_before(taken_out: Archived, command: str) -> None:
    printed = taken_out.run(command, "--archive", str(taken_out.location))
    assert printed == taken_out.printed[command]
    assert printed


def test_without_the_archive_a_command_prints_what_the_database_has(taken_out: Archived) -> None:
    printed = taken_out.run("--all --format ndjson").splitlines()
    assert msgspec.json.decode(printed[0])["position"] == taken_out.cut + 1
    assert len(printed) == taken_out.end - taken_out.cut
