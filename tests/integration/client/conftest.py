"""One server for the tests of the client, and both clients of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from adapters.settings import Settings
from tests.conftest import NewDatabase
from tests.support.clients import CLIENTS
from tests.support.http_cutter import HttpCutter
from tests.support.server import AppServer


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase) -> Iterator[AppServer]:
    settings = Settings(user_limit=100_000, global_limit=1_000_000, window_seconds=2)
    with AppServer(new_database_url(), settings) as server:
        yield server


@pytest.fixture
def cutter(server: AppServer) -> Iterator[HttpCutter]:
    with HttpCutter(server.port) as cutter:
        yield cutter


@pytest.fixture(params=list(CLIENTS))
def client_class(request: pytest.FixtureRequest) -> Any:
    return CLIENTS[request.param]


@pytest.fixture
def client(server: AppServer, client_class: Any) -> Iterator[Any]:
    """A client of either class; the asynchronous one is called like the other."""
    with client_class(server.url) as client:
        yield client
