"""What a writer knows of the end of the log, and what it reports of a database that lacks it."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from adapters.log import lost_events
from adapters.log.lost_events import LostEvents
from adapters.writer import known_end
from adapters.writer.known_end import KnownEnd, KnownEvent
from domain.decisions.answers import Submitted
from domain.language.errors import EventsLost, MoreLost
from domain.language.events import EventLost, Recorded
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.losses import accept_loss, reported_loss
from tests.support.core import do, put, service, writer_of
from tests.support.given import NOW
from tests.support.stories import ALICE, BOB, admitted, submit
from tests.support.waiting import wait_until

OTHER_HASH = bytes(32)


def in_transaction(fairlog: Fairlog, run: Callable[[Connection], object]) -> object:
    with fairlog.database.write() as connection:
        return run(connection)


def check(fairlog: Fairlog, end: KnownEnd) -> object:
    return in_transaction(
        fairlog, lambda connection: end.check(connection, fairlog.log.lock_head(connection))
    )


def lost(position: int) -> Recorded:
    return Recorded(position, NOW, None, admitted())


def report(fairlog: Fairlog, at: int, known: int, *remembered: int) -> None:
    events = [lost(position) for position in remembered]
    in_transaction(fairlog, lambda connection: lost_events.report(connection, at, known, events))


def test_a_log_that_is_shorter_or_differs_is_refused(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        end = KnownEnd(fairlog.log)
        assert check(fairlog, end) is True
        assert end.latest is not None
        known = end.latest
        for wrong in (KnownEvent(7, known.hash), replace(known, hash=OTHER_HASH)):
            end = KnownEnd(fairlog.log)
            end.latest = wrong
            with pytest.raises(EventsLost):
                check(fairlog, end)


def test_writers_that_know_of_nothing_are_stopped_by_the_report_of_another(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_end, "REPORTS_SECONDS", 0.0)
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        end = KnownEnd(fairlog.log)
        with fairlog.database.connect_writer() as connection:
            with connection.begin():
                assert end.check(connection, fairlog.log.lock_head(connection))
            report(fairlog, 2, 5, 4)
            with pytest.raises(EventsLost, match="event 5"), connection.begin():
                end.check(connection, fairlog.log.lock_head(connection))


def test_reports_of_several_writers_are_put_together(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        report(fairlog, 2, 5, 3)  # of 5 it knows the position alone
        report(fairlog, 2, 5, 4, 5)
        report(fairlog, 2, 4, 4)
        found = reported_loss(fairlog)
        assert (found.at, found.known, sorted(found.by_position)) == (2, 5, [3, 4, 5])
        assert found.by_position[3].user_id == ALICE
        assert found.in_order(6)[-1] == EventLost()


def test_a_loss_is_given_up_where_the_log_says_so_and_reports_are_gone(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        report(fairlog, 2, 4)
        stale = LostEvents(2, 3, {})
        with pytest.raises(MoreLost):
            accept_loss(fairlog, stale, 3, gives_numbers_again=False)
        accepted = accept_loss(fairlog, reported_loss(fairlog), 4, gives_numbers_again=False)
        assert accepted == 5
        assert reported_loss(fairlog) == LostEvents(5, 5, {})
        end = KnownEnd(fairlog.log)
        end.latest = KnownEvent(4, OTHER_HASH)
        assert check(fairlog, end) is False
        assert check(fairlog, end) is True
        assert do(fairlog, submit(BOB), Submitted).job.id == 7


def test_numbers_are_given_again_where_the_operator_says_so(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        report(fairlog, 2, 60_000)
        loss = reported_loss(fairlog)
        assert accept_loss(fairlog, loss, loss.at, gives_numbers_again=True) == 3
        assert do(fairlog, submit(BOB), Submitted).job.id == 5


def test_a_writer_that_is_never_idle_reports_a_loss(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_end, "LAG_SECONDS_MAX", 0.2)
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        writer_of(fairlog).known_end.latest = KnownEvent(9, OTHER_HASH)

        def is_reported() -> bool:
            put(fairlog, *[submit(payload=number) for number in range(20)])  # some always wait
            return reported_loss(fairlog).known == 9

        wait_until(is_reported, "it is reported")


def test_what_a_node_lags_behind_is_not_reported_at_first_sight(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        end = KnownEnd(fairlog.log)
        assert check(fairlog, end) is True
        here, end.latest = end.latest, KnownEvent(9, OTHER_HASH)
        with pytest.raises(EventsLost):
            check(fairlog, end)
        assert not end.is_report_due()
        end.latest = here
        assert check(fairlog, end) is True  # it has caught up: what is missing later, is so anew


def test_a_report_that_was_not_committed_or_is_gone_is_made_again(database_url: str) -> None:
    def fail(connection: Connection) -> None:
        connection.connection.rollback()
        raise OperationalError("COMMIT", None, Exception("the transaction was rolled back"))

    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        end = KnownEnd(fairlog.log)
        end.latest = KnownEvent(9, OTHER_HASH)
        with fairlog.database.connect_writer() as connection:
            event.listen(connection, "commit", fail)
            with pytest.raises(OperationalError):
                end.report(connection)
            event.remove(connection, "commit", fail)
        for _ in range(2):
            assert reported_loss(fairlog).known == 2
            with fairlog.database.connect_writer() as connection:
                end.report(connection)
                end.report(connection)
            assert reported_loss(fairlog).known == 9
            in_transaction(fairlog, lost_events.clear_reports)
