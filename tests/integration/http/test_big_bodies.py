"""A body that is refused costs little, and a large one is read outside the event loop."""

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import httpx
import pytest

from adapters.settings import Settings
from domain.language.bodies import body_of_json
from domain.language.errors import InvalidInput
from entrypoints.http.requests import SubmissionBatch
from entrypoints.http.strict_json import BYTES_ON_THE_LOOP_MAX, off_the_loop, read_batch
from tests.conftest import NewDatabase
from tests.support.server import AppServer, problem

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
ARRAYS = b"[" + b"[]," * (8 * MIB // 3 - 40) + b"[]]"


@pytest.fixture(scope="module")
def client(new_database_url: NewDatabase) -> Iterator[httpx.Client]:
    with AppServer(new_database_url(), Settings()) as server:
        yield server.client


def bytes_at_most(work: Callable[[], object]) -> int:
    """Return the memory that a refusal takes at its peak."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_payload_that_is_too_large_is_refused_before_it_becomes_objects() -> None:
    assert bytes_at_most(lambda: body_of_json(ARRAYS, "payload")) < 4 * len(ARRAYS)


@pytest.mark.parametrize("half", [b"", b'"\\ud800"'], ids=["no end", "half a surrogate pair"])
def test_a_large_batch_that_cannot_be_read_becomes_no_objects(half: bytes) -> None:
    body = b'{"jobs": [%s%s' % (half, ARRAYS)
    assert bytes_at_most(lambda: read_batch(body, SubmissionBatch)) < 4 * len(body)


def test_what_is_large_is_read_beside_the_loop() -> None:
    async def readers() -> list[threading.Thread]:
        sizes = (BYTES_ON_THE_LOOP_MAX, BYTES_ON_THE_LOOP_MAX + 1)
        return [await off_the_loop(size, threading.current_thread) for size in sizes]

    small, large = asyncio.run(readers())
    assert small is threading.current_thread()
    assert large is not small


def test_large_payloads_results_and_errors_of_many_containers_are_refused(
    client: httpx.Client,
) -> None:
    for path, body in (
        ("/v1/jobs", b'{"user_id":"a","kind":"echo","payload":%s}'),
        ("/v1/jobs/1/complete", b'{"attempt":1,"result":%s}'),
        ("/v1/jobs/1/fail", b'{"attempt":1,"error":%s}'),
    ):
        answer = client.post(path, content=body % ARRAYS, headers=JSON)
        assert "at most" in problem(answer, 413)["detail"]


def test_white_space_and_escapes_do_not_count(client: httpx.Client) -> None:
    spaced = json.dumps([1] * 200_000, indent=8).encode()
    escaped = b'"' + b"\\u0041" * (MIB - 2) + b'"'
    for payload in (spaced, escaped):
        assert len(payload) > MIB
        body = b'{"user_id":"a","kind":"echo","payload":%s}' % payload
        answer = client.post("/v1/jobs", content=body, headers=JSON)
        assert answer.status_code == 202
        assert answer.json()["payload"] == json.loads(payload)
