"""Polls of workers as one process sees them; the integration tests share them among servers."""

from domain.language.identifiers import Kind, WorkerId
from entrypoints.service.worker_polls import (
    LATELY_SECONDS,
    WORKERS_KEPT_MAX,
    WorkerPoll,
    WorkerPolls,
    is_alive,
    nearest_kind,
)

A, B = Kind("a"), Kind("b")
ADA = WorkerId("ada")


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_worker_polls_while_its_claim_waits_and_is_silent_from_its_end_on() -> None:
    seconds = Seconds()
    polls = WorkerPolls(seconds)
    assert polls.known() == []
    with polls.claiming(ADA, (A,)):
        seconds.now += 1000
        assert polls.known() == [WorkerPoll(ADA, frozenset({A}), 0)]
    seconds.now += 5
    assert polls.known() == [WorkerPoll(ADA, frozenset({A}), 5)]
    polls.note(ADA)
    assert polls.known() == [WorkerPoll(ADA, frozenset({A}), 0)]


def test_a_claim_of_any_kind_asks_for_every_kind() -> None:
    polls = WorkerPolls(Seconds())
    with polls.claiming(ADA, None), polls.claiming(WorkerId("bob"), (B,)):
        any_kind, one_kind = polls.known()
    assert any_kind.asks_for(A)
    assert one_kind.asks_for(B)
    assert not one_kind.asks_for(A)


def test_of_too_many_workers_those_that_have_been_silent_longest_are_forgotten() -> None:
    seconds = Seconds()
    polls = WorkerPolls(seconds)
    with polls.claiming(ADA, (A,)):
        for number in range(WORKERS_KEPT_MAX + 1):
            seconds.now += 0.001
            polls.note(WorkerId(f"worker-{number}"))
        known = {poll.worker for poll in polls.known()}
    assert len(known) <= WORKERS_KEPT_MAX
    assert "worker-0" not in known
    assert {ADA, f"worker-{WORKERS_KEPT_MAX}"} <= known


def test_a_busy_worker_may_be_silent_for_as_long_as_a_lease() -> None:
    assert is_alive(LATELY_SECONDS - 1, 30, holds_jobs=False)
    assert not is_alive(LATELY_SECONDS, 300, holds_jobs=False)
    assert is_alive(LATELY_SECONDS, 300, holds_jobs=True)
    assert not is_alive(300, 300, holds_jobs=True)


def test_a_mistyped_kind_is_near_one_that_workers_ask_for() -> None:
    polls = [WorkerPoll(ADA, frozenset({Kind("thumbnail"), Kind("export")}), 0)]
    assert nearest_kind(Kind("thumbnial"), polls) == "thumbnail"
    assert nearest_kind(Kind("invoice"), polls) is None
