from collections.abc import Iterator

import pytest

from tests.conftest import NewDatabase
from tests.support.keyed_server import KeyedServer, keyed_server


@pytest.fixture(scope="module")
def keyed(new_database_url: NewDatabase) -> Iterator[KeyedServer]:
    """One server with keys and jobs for all tests of a module."""
    with keyed_server(new_database_url()) as server:
        yield server
