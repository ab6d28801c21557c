"""No error ends a loop for good, and what fails is known by name."""

import asyncio
import threading

import pytest

from adapters import supervision
from adapters.supervision import Part, Supervisor, Trouble, keep_running, repeat, supervise
from domain.language.errors import LogUnavailable
from tests.support.waiting import until, wait_until

ERRORS = [
    ValueError("unforeseen"),
    LogUnavailable("The database does not answer."),
    SystemExit(3),
    MemoryError(),
    RecursionError("deep"),
    asyncio.CancelledError(),
    OSError(28, "No space left"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(supervision, "PAUSE_SECONDS_MAX", 0.01)
    monkeypatch.setattr(supervision, "HEALED_SECONDS", 0.01)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_task_is_begun_again_whatever_it_raises(error: BaseException) -> None:
    part = Part("loop")
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise error
        part.works()

    asyncio.run(keep_running(part, run))
    assert runs == 4
    assert part.failures == 3
    assert part.trouble() is None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_thread_is_begun_again_whatever_it_raises(error: BaseException) -> None:
    part = Part("loop")
    runs = cleaned = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise error

    def clean_up() -> None:
        nonlocal cleaned
        cleaned += 1
        raise RuntimeError("cleaning up fails, too")

    thread = threading.Thread(target=supervise, args=(part, run, threading.Event(), clean_up))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert (runs, cleaned) == (4, 3)


class _NoMemory(Part):
    """Even to say that it fails, there is no memory."""

    def fails(self, error: BaseException | str) -> None:
        raise MemoryError from (error if isinstance(error, BaseException) else None)


def test_a_loop_is_begun_again_also_when_its_failure_cannot_be_noted() -> None:
    runs: list[str] = []

    def run() -> None:
        runs.append("thread")
        if len(runs) < 4:
            raise MemoryError

    async def run_task() -> None:
        runs.append("task")
        if len(runs) < 8:
            raise MemoryError

    thread = threading.Thread(target=supervise, args=(_NoMemory("loop"), run, threading.Event()))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    asyncio.run(keep_running(_NoMemory("loop"), run_task))
    assert runs == ["thread"] * 4 + ["task"] * 4


def test_a_chore_fails_with_its_reason_until_it_works_again() -> None:
    supervisor = Supervisor()
    part = supervisor.part("due_jobs")
    fails = True

    async def chore() -> None:
        if fails:
            raise LogUnavailable("The database does not answer.")

    async def watch() -> None:
        nonlocal fails
        task = asyncio.create_task(repeat(part, chore, 0.001))
        await until(lambda: bool(supervisor.troubles()))
        [trouble] = supervisor.troubles()
        assert (trouble.part, trouble.reason) == ("due_jobs", "The database does not answer.")
        fails = False
        await until(lambda: not supervisor.troubles())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(asyncio.wait_for(watch(), 10))


def test_a_cancelled_task_ends() -> None:
    async def ends() -> None:
        task = asyncio.create_task(keep_running(Part("loop"), asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(ends(), 10))


def test_a_loop_that_says_nothing_of_itself_works_when_it_has_gone_on_for_a_while() -> None:
    part = Part("loop")
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError
        await until(lambda: not part.is_failing)

    asyncio.run(asyncio.wait_for(keep_running(part, run, heals=True), 10))
    assert part.trouble() is None


def test_a_round_that_does_not_end_counts_as_failing() -> None:
    part = Part("reads", stuck_seconds=0.01)
    part.begins()
    wait_until(lambda: part.trouble() is not None, "it is stuck")
    trouble = part.trouble()
    assert trouble is not None
    assert trouble.reason.startswith("It has waited")
    part.works()
    assert part.trouble() is None


def test_what_another_process_says_is_told_with_ones_own() -> None:
    supervisor = Supervisor()
    supervisor.part("reads").fails("The disk cannot be read.")
    supervisor.set_reported([Trouble("writes", "The disk is full.", 2.0)])
    supervisor.add_probe(lambda: Trouble("writer_process", "It is silent.", 3.0))
    assert [one.part for one in supervisor.troubles()] == ["reads", "writer_process", "writes"]
    supervisor.set_reported([])
    assert "writes" not in [one.part for one in supervisor.troubles()]
