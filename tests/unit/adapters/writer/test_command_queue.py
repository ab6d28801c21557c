from collections import Counter

import pytest

from adapters.writer import command_queue
from adapters.writer.command_queue import (
    BATCH_COMMANDS_MAX,
    BATCH_JOBS_MAX,
    CommandQueue,
    Pending,
)
from domain.language.commands import ClaimJobs, Command, ReportRefusals, SubmitJob
from domain.language.errors import QueueFull
from domain.language.identifiers import Kind, UserId, WorkerId
from tests.support.given import at
from tests.support.stories import (
    ALICE,
    BOB,
    CAROL,
    claim,
    complete,
    refusals,
    submit,
)


def report(count: int) -> ReportRefusals:
    return refusals(count, UserId("ada"), last_at=at(1))


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


def full_of(user_id: UserId, number: int, queue: CommandQueue) -> None:
    for payload in range(number):
        queue.put(submit(user_id, payload=payload))


def users_in(batch: list[Pending]) -> list[str]:
    return [one.command.user_id for one in batch if isinstance(one.command, SubmitJob)]


def test_what_fits_into_a_batch_is_taken_in_the_order_of_arrival() -> None:
    queue = CommandQueue()
    arrived: list[Command] = [
        submit(ALICE, payload=1),
        claim(1),
        submit(BOB),
        submit(ALICE, payload=2),
        complete(),
    ]
    for command in arrived:
        queue.put(command)
    assert [one.command for one in queue.take()] == arrived
    assert not queue


def test_nobody_waits_behind_the_thousands_of_another_user() -> None:
    queue = CommandQueue()
    full_of(ALICE, 10 * BATCH_COMMANDS_MAX, queue)
    full_of(BOB, 1, queue)
    full_of(CAROL, 2, queue)
    queue.put(claim(1))
    batch = queue.take()
    assert len(batch) == BATCH_COMMANDS_MAX
    assert Counter(users_in(batch)) == {ALICE: BATCH_COMMANDS_MAX - 4, BOB: 1, CAROL: 2}
    payloads = [one.number for one in batch]
    assert payloads == sorted(payloads)


def test_submissions_and_what_ends_jobs_wait_for_each_other_in_equal_parts() -> None:
    queue = CommandQueue()
    for _ in range(2 * BATCH_COMMANDS_MAX):
        queue.put(complete())
    full_of(ALICE, 2 * BATCH_COMMANDS_MAX, queue)
    assert len(users_in(queue.take())) == BATCH_COMMANDS_MAX // 2


def test_claims_that_fill_a_batch_leave_room_for_submissions() -> None:
    queue = CommandQueue()
    for _ in range(10):
        queue.put(claim(1000))
    full_of(ALICE, 100, queue)
    batch = queue.take()
    assert len(users_in(batch)) == 100
    assert len(batch) == 100 + BATCH_JOBS_MAX // 1000


def test_claims_of_very_many_kinds_are_not_taken_together() -> None:
    queue = CommandQueue()
    kinds = tuple(Kind(f"kind-{number}") for number in range(1000))
    for _ in range(10):
        queue.put(ClaimJobs(worker=WorkerId("w"), max_jobs=1, kinds=kinds))
    assert len(queue.take()) == BATCH_JOBS_MAX // 1000


def test_one_user_never_fills_the_queue() -> None:
    queue = CommandQueue(submissions_max=100)
    with pytest.raises(QueueFull):
        full_of(ALICE, 100, queue)
    assert len(queue) == 50
    for user in (BOB, CAROL):
        full_of(user, 10, queue)
    with pytest.raises(QueueFull):
        queue.put(submit(ALICE, payload="one more"))


def test_one_user_never_fills_the_queue_with_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_queue, "SUBMISSION_BYTES_MAX", 1000)
    queue = CommandQueue()
    large = "x" * 198
    for _ in range(3):
        queue.put(submit(ALICE, payload=large))
    with pytest.raises(QueueFull):
        queue.put(submit(ALICE, payload=large))
    queue.put(submit(BOB, payload=large))
    queue.take()
    queue.put(submit(ALICE, payload=large))
