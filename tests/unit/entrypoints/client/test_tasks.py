"""Jobs by decorator: what is submitted, and what is refused before it is."""

import asyncio
from typing import Any

import pytest

from fairlog_client import Fairlog, InvalidArguments, Jobs, RetryPolicy
from fairlog_client.tasks import Task

jobs = Jobs()


@jobs.task(kind="thumbnail", max_attempts=5, timeout=60, final_exceptions=(KeyError,))
def thumbnail(path: str, size: int = 200, **options: Any) -> str:
    """Make a small picture."""
    return f"{path} {size} {options}"


@jobs.task()
async def fetch(url: str, job: Any = None) -> tuple[str, Any]:
    return url, job


class Recorder:
    """A client that remembers what is submitted."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []

    def submit(self, **fields: Any) -> None:
        self.submitted.append({name: value for name, value in fields.items() if value})


def test_a_task_is_the_function_that_it_was() -> None:
    assert thumbnail("/a") == "/a 200 {}"
    assert asyncio.run(fetch("x")) == ("x", None)
    assert thumbnail.__doc__ == "Make a small picture."


def test_its_submission_has_its_kind_its_defaults_and_its_parameters_by_name() -> None:
    recorder: Any = Recorder()
    own = Jobs(recorder)
    retry = RetryPolicy(base_seconds=30)
    task = own.task(
        kind="thumbnail", max_attempts=5, retry=retry, timeout=60, resources=["pictures"]
    )(thumbnail.function)
    task.submit("alice", "/a", 3, crop=True)
    task.options(priority=2, idempotency_key="k", resources=["b"]).submit(user="bob", path="/b")
    first, second = recorder.submitted
    assert first == {
        "user_id": "alice",
        "kind": "thumbnail",
        "payload": {"path": "/a", "size": 3, "crop": True},
        "max_attempts": 5,
        "retry": retry,
        "timeout_seconds": 60,
        "resources": ["pictures"],
    }
    assert (second["payload"], second["priority"]) == ({"path": "/b"}, 2)
    assert second["resources"] == ["b"]
    assert (second["idempotency_key"], second["max_attempts"]) == ("k", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "missing a required argument: 'path'"),
        ({"url": "/a", "job": 1}, "unexpected keyword argument 'job'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    task: Task[..., Any] = fetch if "job" in arguments else thumbnail
    with pytest.raises(InvalidArguments, match=message) as raised:
        task.payload(**arguments)
    assert isinstance(raised.value, TypeError)


def test_a_time_out_that_the_worker_would_not_wait_for_is_refused() -> None:
    @Jobs().task(timeout=60)
    def task(path: str) -> None: ...

    assert task.options(timeout_seconds=5).timeout_seconds == 5
    with pytest.raises(InvalidArguments, match=r"'task' runs at most 60 s.*timeout_seconds=61"):
        task.options(timeout_seconds=61)


def test_options_that_do_not_exist_are_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidArguments, match=r"'prio'; the options are max_attempts, .*priority"):
        thumbnail.options(prio=3)


def test_a_kind_stands_at_one_function() -> None:
    with pytest.raises(InvalidArguments, match="another task of the kind 'thumbnail'"):
        jobs.task(kind="thumbnail")(len)


def test_parameters_without_a_name_are_refused() -> None:
    def positional(path: str, /) -> None: ...

    def many(*paths: str) -> None: ...

    for function in (positional, many):
        with pytest.raises(InvalidArguments, match="by name"):
            Jobs().task()(function)


def test_a_worker_calls_the_function_with_the_payload_and_the_job() -> None:
    assert thumbnail.call_with({"path": "/a", "crop": 1}, "job") == "/a 200 {'crop': 1}"
    answer: Any = fetch.call_with({"url": "x"}, "the job")
    assert asyncio.run(answer) == ("x", "the job")
    with pytest.raises(InvalidArguments, match="unexpected keyword argument 'link'"):
        fetch.call_with({"url": "x", "link": "y"}, "job")
    with pytest.raises(InvalidArguments, match="is an object with its parameters, not a list"):
        fetch.call_with(["x"], "job")


def test_the_client_is_made_when_the_first_job_is_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lazy = Jobs()
    monkeypatch.setenv("FAIRLOG_SERVER", "http://other:1234")
    assert isinstance(lazy.client, Fairlog)
    assert lazy.client is lazy.client
    lazy.client.close()
