from datetime import timedelta

from adapters.command_queue import BATCH_COMMANDS_MAX, CommandQueue
from domain.commands import ReportRefusals
from domain.events import Scope
from domain.identifiers import UserId
from tests.support.given import NOW
from tests.support.stories import submit


def report(count: int) -> ReportRefusals:
    return ReportRefusals(
        user_id=UserId("ada"), scope=Scope.USER, used=1, limit=1, window_start=NOW,
        window_seconds=60, count=count, first_at=NOW, last_at=NOW + timedelta(seconds=1),
    )  # fmt: skip


def test_reports_of_refusals_are_taken_before_everything_else_that_waits() -> None:
    queue = CommandQueue()
    for number in range(2 * BATCH_COMMANDS_MAX):
        queue.put(submit(payload=number))
    for count in (1, 2):
        queue.put(report(count))
    assert len(queue) == 2 * BATCH_COMMANDS_MAX + 2
    batch = [one.command for one in queue.take()]
    assert len(batch) == BATCH_COMMANDS_MAX
    assert batch[:2] == [report(1), report(2)]


def test_reports_that_wait_are_refused_with_the_rest_and_wake_the_writer() -> None:
    queue = CommandQueue()
    reply = queue.put(report(1))
    assert queue.oldest_seconds() > 0
    queue.fail_waiting(ValueError("over"))
    assert isinstance(reply.exception(), ValueError)
    assert not queue
    queue.put(report(1))
    assert [one.command for one in queue.take()] == [report(1)]


def test_a_report_alone_ends_the_wait_of_the_writer() -> None:
    queue = CommandQueue()
    queue.put(report(1))
    assert queue.wait(0)
