"""API keys in the log: every process that writes knows them at once, and nothing else gives one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from adapters.log.audit_log import EventFilter, find, limited_to
from adapters.log.key_events import keys_after, keys_at, latest_key_event
from adapters.log.tables import events
from domain.access.keys import ApiKeys
from domain.decisions.answers import Submitted
from domain.language.commands import Command, CompleteJob
from domain.language.errors import KeyNotValid, MissingRight, UnknownJob
from domain.language.events import Role
from domain.language.identifiers import JobId, KeyName, Kind, UserId
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.verification import verify_log
from projections.verify.findings import Difference, Finding
from tests.support.clock import NOON, ManualClock
from tests.support.core import execute_now, service
from tests.support.history import Intruder
from tests.support.keys import by, create_key, revoke_key, rotate_key, secret
from tests.support.stories import ALICE, BOB, claim, submit

ACME = UserId("acme/zoë")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock) as one:
        yield one


@contextmanager
def another(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock) as other:
        yield other


def do(fairlog: Fairlog, *commands: Command) -> None:
    for command in commands:
        execute_now(fairlog, command)


def keys_of(fairlog: Fairlog) -> ApiKeys:
    return fairlog.read_now(lambda connection: keys_after(connection, ApiKeys()))


def found_by_verify(fairlog: Fairlog) -> list[str]:
    found: list[Finding | Difference] = []
    verify_log(fairlog, found.append, lambda _done, _total: None)
    return [str(one) for one in found]


def test_a_key_is_known_to_another_writer_at_once_and_a_revoked_one_refused(
    fairlog: Fairlog, database_url: str, clock: ManualClock
) -> None:
    with another(database_url, clock) as other:
        do(other, submit())  # so that its writer has loaded what it knows
        do(fairlog, create_key("ci", any_user=True))
        do(other, by("ci", submit(payload=1)))
        do(fairlog, by("ci", submit(payload=2)), revoke_key("ci"))
        with pytest.raises(KeyNotValid):
            do(other, by("ci", submit(payload=3)))
        do(other, create_key("cd", any_user=True))
        do(fairlog, by("cd", submit(payload=4)))


def test_a_rotated_secret_holds_until_the_overlap_has_ended(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    do(fairlog, create_key("ci", any_user=True), rotate_key("ci", "second", 60.0))
    do(fairlog, by("ci", submit(payload=1)), by("ci", submit(payload=2), "second"))
    clock.advance(60)
    with pytest.raises(KeyNotValid):
        do(fairlog, by("ci", submit(payload=3)))
    do(fairlog, by("ci", submit(payload=4), "second"))


def test_a_key_survives_a_rebuild_and_a_clean_log_is_verified(fairlog: Fairlog) -> None:
    do(fairlog, create_key("ci", any_user=True), create_key("w", Role.WORKER))
    do(fairlog, by("ci", submit()), by("w", claim()), revoke_key("ci"))
    assert found_by_verify(fairlog) == []


def test_the_log_says_which_keys_were_valid_at_a_position(fairlog: Fairlog) -> None:
    do(fairlog, create_key("ci", any_user=True), create_key("root", Role.ADMIN), revoke_key("ci"))
    past = TimeTravel(fairlog)
    found = [
        [key.name for key in fairlog.read_now(lambda c, p=position: past.state(c, p)).keys]  # type: ignore[misc]  # bound now
        for position in range(4)
    ]
    assert found == [[], ["ci"], ["ci", "root"], ["root"]]
    assert [
        sorted(fairlog.read_now(lambda c, p=position: keys_at(c, p)).by_name)  # type: ignore[misc]  # bound now
        for position in range(3)
    ] == [[], ["ci"], ["ci", "root"]]
    assert fairlog.read_now(latest_key_event) == 3


def test_no_secret_is_stored(fairlog: Fairlog) -> None:
    do(fairlog, create_key("ci", any_user=True))
    with fairlog.database.read() as connection:
        stored = connection.execute(sa.select(events.c.data)).scalars().all()
    assert all(secret("ci").split("_")[2].encode() not in bytes(data) for data in stored)


def test_a_role_raised_by_hand_is_found_by_verify(fairlog: Fairlog) -> None:
    do(fairlog, create_key("ci", any_user=True), by("ci", submit()))
    raised = bytes(Intruder(fairlog).row(1)["data"]).replace(b'"submitter"', b'"admin"')
    Intruder(fairlog).change(1, data=raised)
    [first, *_] = found_by_verify(fairlog)
    assert "1" in first
    assert "hash" in first


def test_nothing_but_the_log_gives_a_role(
    fairlog: Fairlog, database_url: str, clock: ManualClock
) -> None:
    """No table holds a role that could be raised: a role outlives the loss of every other table."""
    do(fairlog, create_key("ci", any_user=True), create_key("w", Role.WORKER), revoke_key("w"))
    before = keys_of(fairlog).by_name
    truth = {"events", "bodies", "log_head", "alembic_version"}
    with fairlog.database.write() as connection:
        for table in set(sa.inspect(connection).get_table_names()) - truth:
            connection.exec_driver_sql(f"DROP TABLE {table}")
    with another(database_url, clock) as started:
        assert keys_of(started).by_name == before
        do(started, by("ci", submit()))
        with pytest.raises(MissingRight):
            do(started, by("ci", claim()))
        with pytest.raises(KeyNotValid):
            do(started, by("w", claim()))


def test_what_a_key_may_not_cause_is_found_by_verify(fairlog: Fairlog) -> None:
    do(fairlog, create_key("w", Role.WORKER), create_key("ci", any_user=True))
    do(fairlog, by("ci", submit()))
    intruder = Intruder(fairlog)
    for position in (3, 4):
        data = bytes(intruder.row(position)["data"]).replace(b'"by":"ci"', b'"by":"w"')
        intruder.change(position, data=data)
    intruder.link_anew()
    texts = found_by_verify(fairlog)
    assert any("the key 'w' with the role worker may not cause it" in text for text in texts)


def test_events_are_found_by_who_caused_them(fairlog: Fairlog) -> None:
    do(fairlog, create_key("ci", any_user=True), create_key("cd", any_user=True))
    do(fairlog, by("ci", submit(payload=1)), by("cd", submit(payload='"by":"ci"')))
    found = fairlog.read_now(lambda c: find(c, EventFilter(by=KeyName("ci")), 0, 100))
    assert [event.type for event in found] == ["RateLimitDecided", "JobSubmitted"]
    assert [event.position for event in found] == [3, 4]


@pytest.mark.parametrize(
    ("scope", "users"),
    [
        ({"users": (ALICE,)}, {"alice"}),
        ({"users": (ALICE, ACME)}, {"alice", ACME}),
        ({"user_prefix": "acme/"}, {ACME}),
        ({"users": (BOB,), "user_prefix": "acme/"}, {"bob", ACME}),
        ({"users": (BOB,), "user_prefix": "fair"}, {"bob", "fair", "fairlog.callback0"}),
        ({"users": (BOB,), "user_prefix": "fairlog.callback/h"}, {"bob"}),
        ({"any_user": True}, {"alice", "bob", ACME}),
    ],
)
def test_a_key_sees_the_events_of_its_users_alone(
    fairlog: Fairlog, scope: dict[str, object], users: set[str]
) -> None:
    do(fairlog, create_key("ci", **scope))  # type: ignore[arg-type]  # its users
    others = {"acme", "acme0", "Acme/", "fair", "fairlog.callback0", "fairlog.callback/host"}
    do(fairlog, *(submit(UserId(user)) for user in (ALICE, BOB, ACME, *sorted(others))))
    key = keys_of(fairlog).by_name[KeyName("ci")]
    wanted = limited_to(EventFilter(), key)
    found = fairlog.read_now(lambda c: find(c, wanted, 0, 100))
    expected = users | (others if "any_user" in scope else set())
    assert {event.user_id for event in found} == expected
    everything = fairlog.read_now(lambda c: find(c, EventFilter(), 0, 100))
    assert [event for event in everything if wanted.matches(event)] == found
    counts = fairlog.read_now(
        fairlog.with_saved_rows(lambda c: fairlog.visible_jobs.counts(c, key))
    )
    assert sum(counts.values()) == len(expected)


def test_a_key_for_some_kinds_sees_no_event_of_a_job_of_another(fairlog: Fairlog) -> None:
    do(fairlog, create_key("ci", users=(ALICE,), kinds=(Kind("écho"),)))
    do(fairlog, submit(kind=Kind("écho")), submit(kind=Kind("other")))
    key = keys_of(fairlog).by_name[KeyName("ci")]
    wanted = limited_to(EventFilter(), key)
    found = fairlog.read_now(lambda c: find(c, wanted, 0, 100))
    assert [event.position for event in found] == [3]
    everything = fairlog.read_now(lambda c: find(c, EventFilter(), 0, 100))
    assert [event for event in everything if wanted.matches(event)] == found


def test_a_worker_without_a_key_cannot_end_an_attempt_of_a_key(fairlog: Fairlog) -> None:
    do(fairlog, create_key("w", Role.WORKER))
    submitted = execute_now(fairlog, submit())
    assert isinstance(submitted, Submitted)
    do(fairlog, by("w", claim()))
    with pytest.raises(UnknownJob):
        do(fairlog, CompleteJob(job_id=JobId(submitted.job.id), attempt=1))
