"""The servers of the HTTP tests. A module with other settings overrides `settings`."""

from collections.abc import Iterator

import httpx
import pytest

from adapters.settings import Settings
from tests.conftest import NewDatabase
from tests.support.clock import NOON, ManualClock
from tests.support.server import AppServer


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def server(database_url: str, settings: Settings, clock: ManualClock) -> Iterator[AppServer]:
    with AppServer(database_url, settings, clock) as server:
        yield server


@pytest.fixture
def client(server: AppServer) -> httpx.Client:
    return server.client


@pytest.fixture(scope="module")
def shared(new_database_url: NewDatabase, settings: Settings) -> Iterator[httpx.Client]:
    """One server for all the tests that leave nothing behind, or use names of their own."""
    with AppServer(new_database_url(), settings, ManualClock(NOON)) as server:
        yield server.client
