"""Events of older shapes, and projections of older versions, in a log that goes on."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa

from adapters.log.tables import events
from adapters.settings import Settings
from domain.decisions.answers import Claimed
from domain.language.commands import ClaimJobs, SubmitJob
from domain.language.errors import LogTooNew, QueueFull
from domain.language.events import JobReleased, JobStarted, encode
from domain.language.identifiers import WorkerId
from domain.log.upcasting import UPCASTERS, read, version_of
from entrypoints import composition
from entrypoints.composition import compose, prepare
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases import verifying
from entrypoints.use_cases.verification import verify_log
from projections.inline.jobs import JobsProjection
from projections.inline.line import LineProjection
from projections.inline.windows import WindowsProjection
from projections.rebuild import rebuild
from projections.storage.registry import read as registered
from tests.support import history
from tests.support.clock import NOON, ManualClock
from tests.support.core import do, log_of, outcomes, put, service
from tests.support.history import ALICE, ECHO, Intruder
from tests.support.stories import body

OLD: Final = (
    b'{"type":"JobStarted","user_id":"alice","kind":"echo","attempt":1,"runner":"worker-1",'
)


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with history.service_with_history(database_url) as (fairlog, _):
        yield fairlog


def from_runner(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the event as if version 1 had called the worker its runner."""
    return {("worker" if name == "runner" else name): value for name, value in fields.items()}


def with_kind_in_lower_case(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"kind": fields["kind"].lower()}


# Reading


def test_an_older_event_is_read_through_each_version_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = b'"lease_expires_at":"2026-01-31T12:00:00Z"}'
    assert version_of("JobStarted") == 1
    monkeypatch.setitem(UPCASTERS, ("JobStarted", 1), from_runner)
    monkeypatch.setitem(UPCASTERS, ("JobStarted", 2), with_kind_in_lower_case)
    assert (version_of("JobStarted"), version_of("JobReleased")) == (3, 1)
    old = OLD.replace(b'"echo"', b'"ECHO"') + lease
    event = read(1, old)
    assert isinstance(event, JobStarted)
    assert (event.worker, event.kind) == ("worker-1", "echo")
    second = read(2, old.replace(b"runner", b"worker"))
    assert second == event
    third = read(3, old.replace(b"runner", b"worker"))
    assert isinstance(third, JobStarted)
    assert third.kind == "ECHO"


def test_events_of_other_types_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    released = JobReleased(user_id=ALICE, kind=ECHO)
    assert read(1, encode(released)) == released
    monkeypatch.setitem(UPCASTERS, ("JobStarted", 1), from_runner)
    assert read(1, encode(released)) == released


def test_a_version_of_a_newer_release_is_refused() -> None:
    with pytest.raises(LogTooNew, match="JobReleased of version 2, and this release knows up to 1"):
        read(2, encode(JobReleased(user_id=ALICE, kind=ECHO)))
    with pytest.raises(msgspec.MsgspecError):
        read(1, b"{}")
    with pytest.raises(msgspec.MsgspecError):
        read(0, encode(JobReleased(user_id=ALICE, kind=ECHO)))


def test_a_log_with_an_older_shape_folds_verifies_and_goes_on(
    fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    intruder = Intruder(fairlog)
    position = intruder.position_of("JobStarted")
    data = intruder.row(position)["data"]
    intruder.change(position, data=data.replace(b'"worker":', b'"runner":'))
    intruder.link_anew()
    fairlog.writer.stop()
    monkeypatch.setitem(UPCASTERS, ("JobStarted", 1), from_runner)
    event = log_of(fairlog)[position - 1].event
    assert isinstance(event, JobStarted)
    assert event.worker == "worker-1"
    assert verify_log(fairlog, print, lambda _done, _total: None).is_clean
    with service(str(fairlog.database.url.render_as_string(hide_password=False))) as again:
        do_submit(again)
        do(again, ClaimJobs(worker=WorkerId("w"), max_jobs=1), Claimed)
        with again.database.read() as connection:
            newest = connection.execute(
                sa.select(events.c.version)
                .where(events.c.type == "JobStarted")
                .order_by(events.c.position.desc())
                .limit(1)
            ).scalar_one()
    assert newest == 2
    assert verify_log(fairlog, print, lambda _done, _total: None).is_clean


def is_error(outcome: object) -> bool:
    return isinstance(outcome, Exception)


def do_submit(fairlog: Fairlog, payload: int = 7) -> Any:
    [outcome] = outcomes(put(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(payload))))
    return outcome


def test_the_registry_of_upcasters_has_no_gaps() -> None:
    for type_name, version in UPCASTERS:
        assert version < version_of(type_name)


# Projections of another version


class NewerWindows(WindowsProjection):
    version = WindowsProjection.version + 1


def newer() -> tuple[Any, ...]:
    return (JobsProjection(), NewerWindows(), LineProjection())


def test_a_release_with_another_version_rebuilds_it_at_migrate_while_the_older_one_works(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(database_url, clock=ManualClock(NOON)) as old:
        monkeypatch.setattr(rebuild, "EVENTS_UNDER_LOCK_MAX", 2)
        assert not [one for one in map(partial(do_submit, old), range(3)) if is_error(one)]
        monkeypatch.setattr(composition, "inline_projections", newer)
        monkeypatch.setattr(verifying, "inline_projections", newer)
        written: list[object] = []
        newest = compose(Settings(database_url=database_url), clock=ManualClock(NOON))

        def write(done: int, total: int) -> None:
            if done < total:
                written.append(do_submit(old, 8))

        try:
            assert prepare(newest, write) == ["windows"]
            assert written
            assert not [one for one in written if is_error(one)]
            with newest.database.read() as connection:
                assert registered(connection)["windows"].version == NewerWindows.version
            assert verify_log(newest, print, lambda _done, _total: None).is_clean
            newest.writer.start()
            assert not isinstance(do_submit(newest, 9), Exception)
            # The older process stops by itself before it folds by the older rules.
            with suppress(QueueFull):
                assert isinstance(do_submit(old, 10), LogTooNew)
            assert isinstance(old.writer.fatal, LogTooNew)
            assert isinstance(old.writer.fatal, LogTooNew)
            assert prepare(newest) == []
            assert verify_log(newest, print, lambda _done, _total: None).is_clean
        finally:
            newest.close()
