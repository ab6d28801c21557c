"""Payloads that a process keeps from a submission until its job has ended."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from domain.jobs.job import Job, State
from domain.language.bodies import Body, body_of
from domain.language.identifiers import JobId
from entrypoints.service import payloads
from entrypoints.service.payloads import (
    ENTRY_BYTES,
    KEPT_BYTES_MAX,
    KEPT_PAYLOAD_BYTES_MAX,
    KEPT_SECONDS,
    Payloads,
)
from tests.support.given import NOW, given
from tests.support.stories import submit


class Process:
    """A process with payloads, a clock of its own, and a database that it must not ask."""

    def __init__(self) -> None:
        self.now = 100.0
        self.payloads = Payloads(self._read_bodies, lambda: self.now)

    async def _read_bodies(self, bytes_: int, query: Callable[[Connection], None]) -> None:
        raise AssertionError(f"{bytes_} bytes were read by {query}")


def payload(size: int) -> Body:
    return body_of("x" * (size - 2), "payload")


def job(job_id: int, of: Body) -> Job:
    [submitted] = given().when(submit()).outcomes
    assert not isinstance(submitted, Exception)
    first: Job = submitted.job  # type: ignore[union-attr]  # a Submitted
    return replace(
        first, id=JobId(job_id), payload_digest=bytes.fromhex(of.sha256), payload_bytes=of.size
    )


def test_the_payloads_of_accepted_jobs_are_found_without_a_query() -> None:
    process = Process()
    small, other = payload(10), payload(20)
    process.payloads.keep(JobId(1), small)
    process.payloads.keep(JobId(2), other)
    found, missing = asyncio.run(process.payloads.find([job(2, other), job(1, small)]))
    assert (found, missing) == ({JobId(2): other.data, JobId(1): small.data}, None)


def test_a_payload_is_that_of_another_log_if_its_digest_differs() -> None:
    process = Process()
    process.payloads.keep(JobId(1), payload(10))
    assert process.payloads.kept(job(1, payload(11))) is None
    assert process.payloads.kept(job(2, payload(10))) is None


def test_no_payload_of_an_ended_or_erased_job_is_kept() -> None:
    process = Process()
    small = payload(10)
    process.payloads.keep(JobId(1), small)
    erased = replace(job(1, small), state=State.DONE, erased_at=NOW)
    assert process.payloads.kept(erased) is None
    process.payloads.drop(JobId(1))
    process.payloads.drop(JobId(1))
    assert process.payloads.kept(job(1, small)) is None


def test_the_first_payloads_are_kept_until_there_is_room_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payloads, "KEPT_BYTES_MAX", 2 * (100 + ENTRY_BYTES))
    process = Process()
    large = payload(100)
    for number in (1, 2, 3):
        process.payloads.keep(JobId(number), large)
    assert [process.payloads.kept(job(n, large)) is not None for n in (1, 2, 3)] == [
        True,
        True,
        False,
    ]
    process.payloads.drop(JobId(1))
    process.payloads.keep(JobId(4), large)
    assert process.payloads.kept(job(4, large)) == large.data


def test_large_payloads_are_not_kept_and_none_is_kept_for_long() -> None:
    process = Process()
    process.payloads.keep(JobId(1), payload(KEPT_PAYLOAD_BYTES_MAX + 1))
    assert process.payloads.kept(job(1, payload(KEPT_PAYLOAD_BYTES_MAX + 1))) is None
    small = payload(KEPT_PAYLOAD_BYTES_MAX)
    for number in range(2, 2 * KEPT_BYTES_MAX // KEPT_PAYLOAD_BYTES_MAX):
        process.payloads.keep(JobId(number), small)
    process.now += KEPT_SECONDS + 1
    process.payloads.keep(JobId(1), small)
    assert process.payloads.kept(job(1, small)) == small.data
    assert process.payloads.kept(job(2, small)) is None
