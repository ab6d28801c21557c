"""The applications of docs/examples: they submit, wait, and pass limits on."""

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

from tests.support.clock import LONGEST_WINDOW
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until

EXAMPLES = ROOT / "docs" / "examples"
SUBMISSIONS_MAX = 3
SETTINGS = {"user_limit": SUBMISSIONS_MAX, "window_seconds": LONGEST_WINDOW}

# What an application sees is the same on each database.
pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

Answer = tuple[int, Any, Any]  # status, JSON, header fields
Ask = Callable[..., Answer]  # method, path, JSON


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # FastAPI looks names of annotations up there
    spec.loader.exec_module(module)
    return module


def fastapi_application() -> Iterator[Ask]:
    return served("fastapi_app")


def litestar_application() -> Iterator[Ask]:
    return served("litestar_app")


def served(name: str) -> Iterator[Ask]:
    """Serve an application by the server that it is deployed with, in a thread."""
    port = free_port()
    config = uvicorn.Config(example(name).app, port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        wait_until(lambda: server.started, "the application is served")

        def ask(method: str, path: str, json: object = None) -> Answer:
            answer = client.request(method, path, json=json)
            return answer.status_code, answer.json(), answer.headers

        yield ask
    server.should_exit = True
    thread.join()


def flask_application() -> Iterator[Ask]:
    module = example("flask_app")
    client = module.app.test_client()

    def ask(method: str, path: str, json: object = None) -> Answer:
        answer = client.open(path, method=method, json=json)
        return answer.status_code, answer.get_json(), answer.headers

    yield ask
    module.fairlog.close()


@pytest.fixture
def server(database_url: str) -> Iterator[FairlogServer]:
    with FairlogServer(database_url, workers=2, settings=SETTINGS) as server:
        yield server


@pytest.fixture(params=[fastapi_application, flask_application, litestar_application])
def ask(
    request: pytest.FixtureRequest, server: FairlogServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ask]:
    monkeypatch.setenv("FAIRLOG_SERVER", server.url)
    monkeypatch.delenv("FAIRLOG_KEY", raising=False)
    yield from request.param()


def test_an_application_submits_waits_and_passes_a_limit_on(ask: Ask) -> None:
    for number in range(SUBMISSIONS_MAX):
        picture = {"customer": "acme", "path": f"/{number}.png"}
        status, submitted, _ = ask("POST", "/thumbnails", picture)
        assert status == 202
        status, result, _ = ask("GET", submitted["url"])
        assert (status, result) == (200, {"path": f"/{number}.png"})
    status, refused, headers = ask("POST", "/thumbnails", {"customer": "acme", "path": "/4.png"})
    assert status == 429
    assert "The limit of 3 submissions" in refused["detail"]
    assert int(headers["Retry-After"]) > 60
    assert ask("POST", "/thumbnails", {"customer": "other", "path": "/4.png"})[0] == 202


def test_an_application_answers_while_the_service_is_away(ask: Ask, server: FairlogServer) -> None:
    assert ask("GET", "/thumbnails/999999")[0] == 404
    server.kill()
    status, _, headers = ask("POST", "/thumbnails", {"customer": "acme", "path": "/1.png"})
    assert (status, headers["Retry-After"]) == (503, "1")
