"""Workers as `fairlog` runs them: their handlers hang, hold the interpreter and end processes."""

import asyncio
import itertools
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters.settings import Settings
from fairlog_client.worker.execution import Execution
from fairlog_client.worker.handler_pool import HandlerPool, handler_pool
from fairlog_client.worker.handler_protocol import HandlerHello
from fairlog_client.worker.outcomes import ClaimedJob
from tests.support.mariadb import OTHER_SERVER
from tests.support.server import AppServer, FairlogServer, audit, submit
from tests.support.waiting import until, wait_until
from tests.support.workers import WorkerProcess

HANDLERS = """
import asyncio
import atexit
import ctypes
import logging
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

def quick(payload):
    return payload

async def quick_on_the_loop(payload):
    return payload

def speaks(text):
    logging.info("at work on %s", text)
    logging.getLogger("shop").warning("low on paper")
    return text

async def speaks_on_the_loop(text):
    await asyncio.sleep(0)
    return speaks(text)

def short(_):
    time.sleep(30)

short.timeout_seconds = 0.5

def hang(_):
    time.sleep(3600)

async def stubborn(_):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def regular_expression(seconds):
    # Holds the interpreter: the engine lets no other thread in while it backtracks.
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        re.match(r"(a+)+$", "a" * 24 + "b")
    return "matched"

async def regular_expression_on_the_loop(seconds):
    return regular_expression(seconds)

def segfault(_):
    time.sleep(0.3)
    ctypes.string_at(0)

def exit_at_once(_):
    os._exit(7)

def pid(seconds):
    time.sleep(seconds)
    return os.getpid()

async def pid_on_the_loop(seconds):
    await asyncio.sleep(seconds)
    return os.getpid()

def regular_expression_for_ever(_):
    re.match(r"(a+)+$", "a" * 60 + "b")

async def busy_for_ever(_):
    while True:
        pass

async def hangs_in_finally(_):
    try:
        await asyncio.sleep(3600)
    finally:
        time.sleep(3600)

def closes_all_descriptors(_):
    os.closerange(3, 4096)
    time.sleep(3600)

async def closes_all_descriptors_on_the_loop(_):
    os.closerange(3, 4096)

async def stops_the_loop(_):
    threading.Thread(target=time.sleep, args=(3600,)).start()
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.1)
    return "back"

async def exits_in_a_task(_):
    async def exits():
        sys.exit(3)
    await asyncio.create_task(exits())

def signals_itself(_):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    return signal.SIGTERM in signal.sigpending()

def _sockets():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                yield int(name)
        except OSError:
            continue

def writes_into_sockets(text):
    for number in _sockets():
        os.write(number, text.encode())
    time.sleep(5)
    return "written"

def reads_from_sockets(seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for number in _sockets():
            try:
                os.read(number, 3)
            except BlockingIOError:
                time.sleep(0.001)
    time.sleep(5)
    return "read"

async def cancels_all_tasks(_):
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    return "cancelled"

def traces_its_thread(_):
    def trace(*_):
        raise RuntimeError("traced")
    sys.settrace(trace)

def leaves_no_thread(_):
    threading.stack_size(2 ** 46)  # no machine has so much, as where all have been started

def writes_at_exit(path):
    atexit.register(pathlib.Path(path).write_text, "bye")
    threading.Thread(target=time.sleep, args=(3600,)).start()

def stops_its_process(_):
    os.kill(os.getpid(), signal.SIGSTOP)

class Unreadable(Exception):
    def __str__(self):
        raise SystemExit(4)

    @property
    def retry(self):
        raise GeneratorExit

class Text(str):
    def encode(self, *_):
        raise asyncio.CancelledError

class Untold(Exception):
    def __str__(self):
        return Text("x")

class Unlistable(dict):
    def items(self):
        raise asyncio.CancelledError

def raises_what_cannot_be_read(which):
    raise {"Unreadable": Unreadable, "Untold": Untold}[which]

def returns_what_cannot_be_read(_):
    return Unlistable(a=1)

async def returns_what_cannot_be_read_on_the_loop(_):
    return Unlistable(a=1)

def crashes_when_there_is(path):
    wait_for(path)
    ctypes.string_at(0)

def crashes_after(seconds):
    time.sleep(seconds)
    ctypes.string_at(0)

def ends_when_there_is(path):
    wait_for(path)
    return "waited"

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.02)

def forks(path):
    child = subprocess.Popen(["sleep", "3600"])
    pathlib.Path(path).write_text(str(child.pid))
    time.sleep(3600)
"""


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    path = tmp_path / "bad_jobs.py"
    path.write_text(textwrap.dedent(HANDLERS))
    return str(path)


Start = Callable[..., Any]  # (*options, **settings): a client and what the worker writes


@pytest.fixture(scope="module", params=["embedded", "over_http"])
def place(request: pytest.FixtureRequest) -> str:
    """The places where workers run: inside a server, or in a process of their own."""
    return str(request.param)


# What one process of handlers bears does not depend on the place of its worker.
in_one_place = pytest.mark.parametrize("place", ["over_http"], indirect=True)


@pytest.fixture(scope="module")
def backend(place: str) -> str:
    """One database for each place: workers differ by their source of jobs, which hides it."""
    return "sqlite" if place == "embedded" and not OTHER_SERVER else "mariadb"


@pytest.fixture
def working(place: str, database_url: str, handlers: str) -> Iterator[Start]:
    """Start a server and a worker with these slots; in `processes`, one handler each."""
    stack: list[Any] = []

    def start(slots: int, *, processes: bool = False, **settings: int) -> Any:
        if place == "embedded":
            options = ["--worker-processes", str(slots)] if processes else []
            server = FairlogServer(
                database_url,
                workers=slots,
                options=options,
                settings={"handlers": handlers, **settings},
            )
            stack.append(server)
            server.start()
            return server.client, server
        app = AppServer(database_url, replace(Settings(), **settings)).__enter__()
        stack.append(app)
        flag = "--processes" if processes else "--concurrency"
        worker = WorkerProcess(app.url, "--handlers", handlers, flag, str(slots))
        stack.append(worker)
        worker.start()
        return app.client, worker

    try:
        yield start
    finally:
        for one in reversed(stack):
            one.__exit__(None, None, None)


def state(client: httpx.Client, job: int) -> str:
    return str(client.get(f"/v1/jobs/{job}").json()["state"])


def ended(client: httpx.Client, job: int, seconds: float = 30.0) -> dict[str, Any]:
    wait_until(lambda: state(client, job) in {"done", "failed"}, f"job {job} has ended", seconds)
    found: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
    return found


@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_handlers_that_never_end_are_given_up_named_and_do_not_hold_slots(
    working: Start, *, processes: bool
) -> None:
    client, worker = working(2, processes=processes)
    hanging = [
        submit(client, kind=kind, timeout_seconds=0.5, max_attempts=1)["id"]
        for kind in ("hang", "stubborn")
    ]
    quick = submit(client, kind="quick", payload="after them")["id"]
    for job in hanging:
        assert ended(client, job)["state"] == "failed"
    assert ended(client, quick)["result"] == "after them"
    wait_until(lambda: "handlers_replaced" in worker.output, "their process is replaced")

    def is_named(job: int) -> bool:
        lines = [line for line in worker.output.splitlines() if "handler_given_up" in line]
        return any(re.search(rf'job"?[=:] ?{job}\b', line) for line in lines)

    wait_until(lambda: all(map(is_named, hanging)), "both are named")
    if isinstance(worker, FairlogServer):
        figures = client.get("/metrics").text
        for kind in ("hang", "stubborn"):
            assert f'fairlog_handlers_given_up_total{{kind="{kind}"}} 1.0' in figures
        for job in hanging:
            reasons = client.get(f"/v1/jobs/{job}/explain").json()["reasons"]
            assert any("It was given up." in reason["text"] for reason in reasons), reasons


def test_a_handler_that_holds_the_interpreter_costs_no_job_its_lease(working: Start) -> None:
    client, worker = working(4, lease_seconds=2)
    jobs = [
        submit(client, "ada", kind="regular_expression", payload=5)["id"],
        submit(client, "bob", kind="regular_expression_on_the_loop", payload=5)["id"],
        submit(client, "cid", kind="pid", payload=0.5)["id"],
    ]
    if isinstance(worker, FairlogServer):
        wait_until(lambda: "regular_expression" in handlers_trouble(client), "it is told")
    for job in jobs:
        found = ended(client, job)
        assert (found["state"], found["attempt"]) == ("done", 1)
    assert not audit(client, type="JobRequeued")
    assert "handlers_hold_interpreter" in worker.output
    assert "regular_expression" in worker.output


def handlers_trouble(client: httpx.Client) -> str:
    """Return the note about handlers in `/readyz`, although the server is ready."""
    told = client.get("/readyz").raise_for_status().json()["failing"]
    return "".join(one["reason"] for one in told if one["part"] == "handlers")


def test_a_handler_that_ends_its_process_fails_alone_and_its_neighbours_are_done(
    working: Start,
) -> None:
    client, worker = working(3)
    neighbour = submit(client, "ada", kind="pid", payload=1.5)["id"]
    culprit = submit(client, "bob", kind="segfault", payload=None, max_attempts=1)["id"]
    error = ended(client, culprit)["error"]
    assert error["message"] == "The process that ran the handler was ended by SIGSEGV."
    reasons = client.get(f"/v1/jobs/{culprit}/explain").json()["reasons"]
    assert any("was ended by SIGSEGV" in reason["text"] for reason in reasons), reasons
    assert ended(client, neighbour)["state"] == "done"
    assert client.get(f"/v1/jobs/{neighbour}").json()["attempt"] == 1
    assert ended(client, submit(client, kind="quick", payload="on")["id"])["result"] == "on"
    assert "handlers_process_died" in worker.output


def test_with_a_process_each_a_crash_and_a_time_out_end_that_attempt_alone(
    working: Start, tmp_path: Path
) -> None:
    client, _ = working(3, processes=True)
    note = tmp_path / "child"
    forking = submit(
        client, "ada", kind="forks", payload=str(note), timeout_seconds=1, max_attempts=1
    )["id"]
    crash = submit(client, "bob", kind="exit_at_once", max_attempts=1)["id"]
    pids = [submit(client, "cid", kind="pid", payload=0.2 + n / 100)["id"] for n in range(4)]
    message = ended(client, crash)["error"]["message"]
    assert message == "The process that ran the handler ended with exit code 7."
    assert all(ended(client, job)["state"] == "done" for job in pids)
    assert ended(client, forking)["state"] == "failed"
    child = int(note.read_text())
    wait_until(lambda: not _is_alive(child), "what the handler started has ended with it")


def test_a_cancel_really_ends_a_handler_that_takes_no_notice(
    working: Start, tmp_path: Path
) -> None:
    client, _ = working(1, processes=True, lease_seconds=1)
    note = tmp_path / "child"
    job = submit(client, kind="forks", payload=str(note))["id"]
    wait_until(lambda: note.exists() and bool(note.read_text()), "it runs")
    client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    child = int(note.read_text())
    wait_until(lambda: not _is_alive(child), "the handler has ended")
    assert ended(client, submit(client, kind="quick", payload="on")["id"])["result"] == "on"


@pytest.mark.parametrize("kind", ["speaks", "speaks_on_the_loop"])
def test_what_a_handler_logs_appears_and_says_whose_it_is(working: Start, kind: str) -> None:
    client, worker = working(2)
    job = submit(client, "ada", kind=kind, payload="42")["id"]
    assert ended(client, job)["result"] == "42"

    def lines() -> list[dict[str, Any]]:
        found = [line for line in worker.output.splitlines() if "handler_log" in line]
        return [json.loads(line) for line in found]

    wait_until(lambda: len(lines()) == 2, "both lines are there")
    for line, (level, logger, message) in zip(
        lines(),
        [("info", "root", "at work on 42"), ("warning", "shop", "low on paper")],
        strict=True,
    ):
        assert (line["level"], line["logger"], line["message"]) == (level, logger, message)
        assert [line[name] for name in ("job", "kind", "user", "attempt")] == [job, kind, "ada", 1]
    started = next(line for line in worker.output.splitlines() if "worker_started" in line)
    assert kind in json.loads(started)["kinds"]


def test_a_handlers_own_bound_ends_its_run(working: Start) -> None:
    client, _ = working(1, processes=True)
    error = ended(client, submit(client, kind="short", max_attempts=1)["id"])["error"]
    assert error["type"] == "TimeoutError"
    assert "longer than the handler's 0.5 s" in error["message"]
    assert "did not end within 5 s of its cancel" in error["message"]


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_processes_for_handlers_die_with_their_worker_and_hold_none_of_its_sockets(
    database_url: str, handlers: str
) -> None:
    with FairlogServer(database_url, workers=2, settings={"handlers": handlers}) as server:
        job = submit(server.client, kind="regular_expression", payload=3600)["id"]
        wait_until(lambda: state(server.client, job) == "running", "it runs")
        [child] = _handler_processes(server.pid)
        sockets = [one for one in _links(child) if one.startswith("socket:")]
        assert len(sockets) == 3  # to its worker, and the pair by which asyncio wakes itself
        server.kill()
        wait_until(lambda: not _is_alive(child), "it has died too")
        server.start()  # the port is free


def _handler_processes(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status[1]) == parent and b"fairlog_client.worker.handler_main" in command:
                found.append(int(entry.name))
    return found


def _links(pid: int) -> list[str]:
    links = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(one.readlink()))
        except OSError:  # closed meanwhile
            continue
    return links


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("embedded", "regular_expression_for_ever"),
        ("embedded", "hangs_in_finally"),
        ("over_http", "busy_for_ever"),
    ],
    indirect=["place"],
)
def test_nobody_waits_for_a_handler_that_holds_the_interpreter_and_was_given_up(
    working: Start, kind: str
) -> None:
    client, worker = working(4)
    neighbours = [
        submit(client, "ada", kind=beside, payload=3)["id"] for beside in ("pid", "pid_on_the_loop")
    ]
    wait_until(lambda: all(is_running(client, job) for job in neighbours), "they run")
    holds = submit(client, "bob", kind=kind, timeout_seconds=1, max_attempts=1)["id"]
    wait_until(lambda: is_running(client, holds), "it runs")
    late = submit(client, "cid", kind="quick", payload="on")["id"]
    for job in (*neighbours, late):
        found = ended(client, job)
        assert (found["state"], found["attempt"], found["failures"]) == ("done", 1, 0)
    assert ended(client, holds)["state"] == "failed"
    assert "handlers_replaced" in worker.output


@pytest.mark.parametrize("kind", ["closes_all_descriptors", "closes_all_descriptors_on_the_loop"])
@in_one_place
def test_a_handler_that_closes_all_descriptors_fails_alone(working: Start, kind: str) -> None:
    client, _ = working(3)
    neighbour = submit(client, "ada", kind="pid", payload=2)["id"]
    closes = submit(client, "bob", kind=kind, max_attempts=1)["id"]
    assert ended(client, closes)["error"]["type"] == "HandlerProcessDied"
    found = ended(client, neighbour)
    assert (found["state"], found["failures"]) == ("done", 0)
    assert ended(client, submit(client, kind="quick", payload="on")["id"])["result"] == "on"


@in_one_place
def test_a_handler_that_ends_the_event_loop_or_signals_its_process_costs_its_neighbours_nothing(
    working: Start,
) -> None:
    client, worker = working(5)
    neighbours = [
        submit(client, "ada", kind=beside, payload=3)["id"] for beside in ("pid", "pid_on_the_loop")
    ]
    wait_until(lambda: all(is_running(client, job) for job in neighbours), "they run")
    bad = {
        kind: submit(client, "bob", kind=kind, max_attempts=1)["id"]
        for kind in ("stops_the_loop", "exits_in_a_task", "signals_itself")
    }
    assert ended(client, bad["stops_the_loop"])["result"] == "back"
    assert ended(client, bad["exits_in_a_task"])["error"]["type"] == "SystemExit"
    assert ended(client, bad["signals_itself"])["result"] is False
    for job in neighbours:
        found = ended(client, job)
        assert (found["state"], found["attempt"], found["failures"]) == ("done", 1, 0)
    assert "handlers_process_died" not in worker.output


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("writes_into_sockets", "neither a length nor a frame"),
        ("writes_into_sockets", "\0\0\0\3abc"),
        ("reads_from_sockets", 3),
    ],
    ids=["no length", "no frame", "reads"],
)
@in_one_place
def test_a_handler_that_disturbs_what_its_process_says_costs_its_neighbours_nothing(
    working: Start, kind: str, payload: object
) -> None:
    client, worker = working(4)
    neighbours = [
        submit(client, "ada", kind=beside, payload=3)["id"] for beside in ("pid", "pid_on_the_loop")
    ]
    wait_until(lambda: all(is_running(client, job) for job in neighbours), "they run")
    disturbs = submit(client, "bob", kind=kind, payload=payload, max_attempts=1)["id"]
    late = submit(client, "cid", kind="quick_on_the_loop", payload="on")["id"]
    for job in (*neighbours, late):
        found = ended(client, job, 60)
        assert (found["state"], found["attempt"], found["failures"]) == ("done", 1, 0)
    if kind == "writes_into_sockets":  # which of the readers hears more is chance
        assert "handlers_process_disturbed" in worker.output
    ended(client, disturbs, 60)


@in_one_place
def test_a_handler_that_cancels_every_task_costs_its_neighbours_nothing(working: Start) -> None:
    client, _ = working(4)
    neighbours = [
        submit(client, "ada", kind=beside, payload=2)["id"] for beside in ("pid", "pid_on_the_loop")
    ]
    wait_until(lambda: all(is_running(client, job) for job in neighbours), "they run")
    jobs = {
        kind: submit(client, "bob", kind=kind, payload="on")["id"]
        for kind in ("cancels_all_tasks", "quick", "quick_on_the_loop")
    }
    assert ended(client, jobs.pop("cancels_all_tasks"))["result"] == "cancelled"
    for job in (*neighbours, *jobs.values()):
        found = ended(client, job)
        assert (found["state"], found["attempt"], found["failures"]) == ("done", 1, 0)


def test_handlers_that_one_without_a_bound_holds_up_are_run_again_alone(
    handlers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three that hold their interpreter for ever, more than may be started at once."""
    monkeypatch.setattr("fairlog_client.worker.handler_pool.HELD_SECONDS_MAX", 4.0)
    hello = HandlerHello(handlers=handlers, has_builtin=False, logs_json=True)

    async def run(processes: HandlerPool) -> None:
        processes.start()
        began: list[str] = []

        def begun(kind: str, payload: object = None) -> Execution:
            return processes.execute(claimed(kind, payload), lambda: began.append(kind))

        neighbours = [begun("pid", 1.0), begun("pid_on_the_loop", 1.0)]
        await until(lambda: len(began) == len(neighbours))
        holding = [
            begun(kind)
            for kind in ("stops_its_process", "regular_expression_for_ever", "busy_for_ever")
        ]
        for execution in neighbours:
            assert (await asyncio.wait_for(execution.ended, 60)).error is None
        await until(lambda: processes.stalled > 0 and processes.trouble() is not None)
        assert not any(one.ended.done() for one in holding)
        for execution in holding:
            processes.cancel(execution)
        await processes.stop()

    with handler_pool(hello, 5) as processes:
        asyncio.run(run(processes))
        assert processes.running == 0


def test_handlers_that_take_long_to_be_imported_again_keep_no_job_from_others(
    handlers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlog_client.worker.handler_pool.IMPORT_LOG_SECONDS", 2.0)
    hello = HandlerHello(handlers=handlers, has_builtin=False, logs_json=True)
    good = Path(handlers).read_text()

    waiting = "import os, time\nwhile not os.path.exists(__file__ + '.go'): time.sleep(0.1)\n"

    def change() -> None:
        Path(handlers).write_text(waiting + good)

    def let_go() -> None:
        Path(f"{handlers}.go").touch()

    async def run(processes: HandlerPool) -> None:
        processes.start()
        change()
        died = processes.execute(claimed("exit_at_once", None), lambda: None)
        await asyncio.wait_for(died.ended, 60)
        waits = processes.execute(claimed("quick", None), lambda: None)
        assert (await asyncio.wait_for(waits.ended, 60)).is_returned
        assert not processes.able.is_set()
        trouble = processes.trouble()
        assert trouble is not None
        assert "not imported" in trouble.reason
        let_go()
        await asyncio.wait_for(processes.able.wait(), 60)
        goes_on = processes.execute(claimed("quick", None), lambda: None)
        assert (await asyncio.wait_for(goes_on.ended, 60)).error is None
        assert processes.trouble() is None
        await processes.stop()

    with handler_pool(hello, 2) as processes:
        asyncio.run(run(processes))


_ids = itertools.count(1)


def claimed(kind: str, payload: object) -> ClaimedJob:
    return ClaimedJob(
        id=next(_ids),
        user_id="ada",
        kind=kind,
        attempt=1,
        payload=Raw(msgspec.json.encode(payload)),
        timeout_seconds=None,
    )


@in_one_place
def test_a_handler_whose_thread_ends_with_an_error_of_its_own_has_ended(working: Start) -> None:
    client, _ = working(1)
    error = ended(client, submit(client, kind="traces_its_thread", max_attempts=1)["id"])["error"]
    assert (error["type"], error["message"]) == ("RuntimeError", "traced")
    assert ended(client, submit(client, kind="quick", payload="on")["id"])["result"] == "on"


@in_one_place
def test_a_handler_that_leaves_no_thread_for_others_costs_them_nothing(working: Start) -> None:
    client, worker = working(4)
    neighbour = submit(client, "ada", kind="pid", payload=3)["id"]
    wait_until(lambda: is_running(client, neighbour), "it runs")
    assert ended(client, submit(client, "bob", kind="leaves_no_thread")["id"])["state"] == "done"
    jobs = [submit(client, f"user-{n}", kind="pid", payload=0.5 + n / 10)["id"] for n in range(3)]
    for job in (neighbour, *jobs):
        found = ended(client, job)
        assert (found["state"], found["attempt"], found["failures"]) == ("done", 1, 0)
    assert "handlers_lack_threads" in worker.output


def test_what_handlers_registered_for_the_end_of_their_process_runs(
    working: Start, tmp_path: Path
) -> None:
    client, worker = working(2)
    note = tmp_path / "note"
    ended(client, submit(client, kind="writes_at_exit", payload=str(note))["id"])
    worker.terminate()
    assert note.read_text() == "bye"


@in_one_place
def test_an_attempt_ends_whatever_its_result_or_its_error_does_when_it_is_read(
    working: Start,
) -> None:
    client, _ = working(2)
    bad = [
        submit(client, kind=kind, payload=payload, max_attempts=1)["id"]
        for kind, payload in [
            ("raises_what_cannot_be_read", "Unreadable"),
            ("raises_what_cannot_be_read", "Untold"),
            ("returns_what_cannot_be_read", None),
            ("returns_what_cannot_be_read_on_the_loop", None),
        ]
    ]
    for job in bad:
        found = ended(client, job)
        assert found["state"] == "failed"
        assert found["error"]["message"] == "What the handler returned or raised cannot be read."


@in_one_place
def test_a_handler_that_was_given_up_and_crashes_later_is_not_taken_for_its_neighbour(
    working: Start, tmp_path: Path
) -> None:
    client, worker = working(2)
    crash, end = tmp_path / "crash", tmp_path / "end"
    neighbour = submit(client, "ada", kind="ends_when_there_is", payload=str(end))["id"]
    submit(
        client,
        "bob",
        kind="crashes_when_there_is",
        payload=str(crash),
        timeout_seconds=0.5,
        max_attempts=1,
    )
    wait_until(lambda: "handlers_replaced" in worker.output, "it was given up")
    crash.touch()
    wait_until(lambda: "handlers_process_died" in worker.output, "it crashes")
    end.touch()
    found = ended(client, neighbour)
    assert (found["state"], found["attempt"], found["failures"]) == ("done", 1, 0)


def test_no_job_times_out_because_a_neighbour_ended_its_process(working: Start) -> None:
    client, _ = working(5)
    neighbours = [
        submit(client, f"user-{n}", kind="pid", payload=4, timeout_seconds=6, max_attempts=1)["id"]
        for n in range(2)
    ]
    wait_until(lambda: all(is_running(client, job) for job in neighbours), "they run")
    crash = submit(client, "bob", kind="crashes_after", payload=3, max_attempts=1)["id"]
    assert "was ended by SIGSEGV" in ended(client, crash)["error"]["message"]
    for job in neighbours:
        found = ended(client, job)
        assert (found["state"], found["failures"]) == ("done", 0)
    given_back = audit(client, type="JobRequeued")
    assert {one["job_id"] for one in given_back} == set(neighbours)
    assert all(one["data"]["suspect"] for one in given_back)


def test_no_job_times_out_while_a_process_for_it_starts(working: Start, handlers: str) -> None:
    with Path(handlers).open("a") as module:
        module.write("\ntime.sleep(4)\n")  # as a large library takes to be imported
    client, _ = working(3, processes=True)
    jobs = [
        submit(client, f"user-{n}", kind="pid", payload=1, timeout_seconds=3, max_attempts=1)["id"]
        for n in range(3)
    ]
    for job in jobs:
        assert ended(client, job, 60)["state"] == "done"


@in_one_place
def test_a_kind_that_the_module_no_longer_has_when_its_process_is_replaced_fails_its_jobs(
    working: Start, handlers: str
) -> None:
    client, worker = working(2)
    wait_until(lambda: "worker_started" in worker.output, "the first process runs")
    Path(handlers).write_text("def other(payload):\n    return payload\n")
    ended(client, submit(client, kind="exit_at_once", max_attempts=1)["id"])
    found = ended(client, submit(client, kind="quick", max_attempts=1)["id"])
    assert found["error"]["message"] == "The handlers module has no kind 'quick' any more."


def test_a_worker_whose_handlers_cannot_be_imported_again_leaves_the_jobs_to_others(
    working: Start, handlers: str, tmp_path: Path
) -> None:
    client, worker = working(2)
    wait_until(lambda: "worker_started" in worker.output, "the first process runs")
    good = Path(handlers).read_text()
    Path(handlers).write_text("raise RuntimeError('half of it is there')")
    ended(client, submit(client, kind="exit_at_once", max_attempts=1)["id"])
    jobs = [submit(client, kind="quick", payload=number)["id"] for number in range(4)]
    wait_until(lambda: "half of it is there" in worker.output, "it cannot be imported")
    (tmp_path / "other_jobs.py").write_text(good)
    options = ("--handlers", str(tmp_path / "other_jobs.py"), "--concurrency", "1")
    with WorkerProcess(str(client.base_url), *options):
        for number, job in enumerate(jobs):
            found = ended(client, job)
            assert (found["result"], found["failures"]) == (number, 0)
    Path(handlers).write_text(good)
    assert ended(client, submit(client, kind="quick", payload="on")["id"], 60)["result"] == "on"


def is_running(client: httpx.Client, job: int) -> bool:
    state: str = client.get(f"/v1/jobs/{job}").json()["state"]
    return state == "running"
