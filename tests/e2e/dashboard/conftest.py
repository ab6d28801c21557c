"""A browser for the tests of the dashboard, and pages on the server of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.conftest import NewDatabase
from tests.support.browser import Window, chromium, window
from tests.support.clock import LONGEST_WINDOW
from tests.support.server import FairlogServer

SETTINGS = {"user_limit": 500, "window_seconds": LONGEST_WINDOW}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase) -> Iterator[FairlogServer]:
    """Start a server without workers: the tests run the jobs themselves."""
    with FairlogServer(new_database_url(), settings=SETTINGS) as server:
        yield server


@pytest.fixture
def opened(browser: Browser, server: FairlogServer) -> Iterator[Window]:
    with window(browser, server.url) as opened:
        yield opened
