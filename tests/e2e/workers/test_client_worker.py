"""`fairlog-worker`, from the client's wheel in an environment of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_wheel import Environment, client_interpreter, new_environment
from tests.support.keyed_server import keyed_server
from tests.support.keys import secret
from tests.support.ports import free_port
from tests.support.server import STOP_SECONDS_MAX, FairlogServer, ending_with_us, without_settings
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_database  # what handlers do is the same on each

FILES = {
    "domain/__init__.py": "",
    "domain/pricing.py": "def price(items): return 3 * len(items)\n",
    "adapters/__init__.py": "from domain.pricing import price\n",
    "projections/__init__.py": "NAME = 'projections of the application'\n",
    "entrypoints/__init__.py": "",
    "entrypoints/jobs.py": """
import logging

import projections
from adapters import price
from fairlog_client import Jobs

jobs = Jobs()


def quote(payload):
    return {"price": price(payload["items"]), "from": projections.NAME}


@jobs.task(kind="order", max_attempts=1)
def place_order(items: list, *, discount: int = 0, job) -> dict:
    logging.getLogger("shop").info("placed")
    return {"price": price(items) - discount, "user": job.user, "attempt": job.attempt}


@jobs.task()
async def fetch(url: str) -> str:
    return url.upper()
""",
}


@pytest.fixture(scope="module", params=[client_interpreter()], ids=str)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    return new_environment(tmp_path_factory.mktemp("environment"), request.param)


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """An application whose packages have the names of those of the service."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


@contextmanager
def worker(
    environment: Environment, folder: Path, *options: str, **variables: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `fairlog-worker`; what it writes is in `output.log` of the folder."""
    with (folder / "output.log").open("ab") as output:
        process = subprocess.Popen(
            [*ending_with_us(), str(environment.home / "bin/fairlog-worker"), *options],
            cwd=folder,
            env=without_settings(os.environ) | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def result(server: FairlogServer, kind: str, payload: Any) -> Any:
    """Submit a job, wait for it, and return it."""
    body = {"user_id": "ada", "kind": kind, "payload": payload, "deduplicate": False}
    return server.client.post("/v1/jobs?wait_seconds=60", json=body).json()


def test_an_application_with_packages_named_like_ours_runs_its_jobs(
    environment: Environment, application: Path, database_url: str
) -> None:
    options = ["--handlers", "entrypoints.jobs", "--log-format", "json"]
    with (
        FairlogServer(database_url) as server,
        worker(environment, application, "--server", server.url, *options) as process,
    ):
        quoted = result(server, "quote", {"items": [1, 2]})
        assert quoted["result"] == {"price": 6, "from": "projections of the application"}, (
            application / "output.log"
        ).read_text()
        placed = result(server, "order", {"items": [1], "discount": 1})
        assert placed["result"] == {"price": 2, "user": "ada", "attempt": 1}
        assert result(server, "fetch", {"url": "x"})["result"] == "X"
        wrong = result(server, "order", {"things": [1]})
        assert (wrong["state"], wrong["error"]["type"]) == ("failed", "InvalidArguments")
        assert "The payload does not fit 'order'" in wrong["error"]["message"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS_MAX) == 0
    lines = (application / "output.log").read_text()
    assert '"event": "worker_started"' in lines
    assert '"event": "handler_log"' in lines
    assert '"message": "placed"' in lines
    assert '"user": "ada"' in lines
    assert '"event": "worker_stopped"' in lines


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_key_from_the_environment_is_used_and_kept_from_handlers(
    environment: Environment, tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "tasks.py").write_text(
        "import os\ndef key(payload): return os.environ.get('FAIRLOG_KEY')\n"
    )
    with keyed_server(database_url) as keyed:
        options = ["--handlers", "tasks.py", "--processes", "1"]
        with worker(
            environment,
            tmp_path,
            *options,
            FAIRLOG_SERVER=keyed.server.url,
            FAIRLOG_KEY=secret("worker"),
        ):
            body = {"user_id": "alice", "kind": "key", "payload": None}
            job = keyed.clients["alice"].post("/v1/jobs?wait_seconds=60", json=body).json()
    assert (job["state"], job["result"]) == ("done", None), (tmp_path / "output.log").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--handlers", "nowhere"], "there is no 'nowhere'"),
        (["--server", "ftp://host"], "The server's address is http://"),
        (["--concurrency", "0"], "'0' is not a whole number from 1 to 1000"),
        (["--processes", "2", "--concurrency", "2"], "not allowed with argument"),
        (["--ca-file", "none.pem"], "none.pem cannot be read"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(
    environment: Environment, tmp_path: Path, options: list[str], said: str
) -> None:
    given = [f"--server=http://127.0.0.1:{free_port()}", *options]
    with worker(environment, tmp_path, *given) as process:
        assert process.wait(STOP_SECONDS_MAX) == 2
    output = (tmp_path / "output.log").read_text()
    assert said in output
    assert "Traceback" not in output


def test_a_server_that_is_away_is_waited_for(environment: Environment, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with worker(environment, tmp_path, "--server", url, "--log-format", "json") as process:
        wait_until(
            lambda: '"event": "source_away"' in (tmp_path / "output.log").read_text(),
            "the worker has asked",
        )
        assert process.poll() is None
