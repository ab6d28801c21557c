"""Fixtures for every test: fresh databases on each kind of database, and servers to break."""

import os
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from adapters.database.database import Database
from adapters.log.schema import migrate, protect_events
from entrypoints.runtime.interpreter import tune_collector
from tests.support.client_wheel import client_interpreter
from tests.support.databases import Databases, DatabaseServer, SqliteFiles, existing_server
from tests.support.mariadb import MYSQLD, OTHER_SERVER, MariaDB
from tests.support.repository import TESTS

# No deadline: an example that meets a busy disk is slow, not wrong. In CI the same examples each
# time, so that a change is judged by itself and not by chance.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests that are marked `anyio`: asyncio, as the service has it."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let clients load one authority by default instead of 140 (22 ms each); no test needs them."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(f"{first}{end}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(file))
        yield


class NewDatabase:
    """Call it for the URL of a new, empty database; all go when the module's tests have run.

    Its scope is a module's, so a Hypothesis test may call it in each example; one with very many
    examples should `drop` each database after use.
    """

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._urls: set[str] = set()

    def __call__(self) -> str:
        url = self._databases.create_database()
        self._urls.add(url)
        return url

    def drop(self, url: str) -> None:
        """Remove a database, whoever still uses it."""
        self._urls.discard(url)
        self._databases.drop_database(url)

    def drop_all(self) -> None:
        for url in list(self._urls):
            self.drop(url)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[DatabaseServer]:
    """The server for tests that leave it alone: FAIRLOG_TEST_DATABASE_URL, or one of our own."""
    server = None if OTHER_SERVER else existing_server()
    if server is not None:
        yield server
    else:
        with MariaDB() as own:
            yield own


@pytest.fixture
def private_mariadb() -> Iterator[MariaDB]:
    """A server for this test alone (0.6 s), to stop, kill and freeze. Needs mariadbd installed."""
    with MariaDB() as server:
        yield server


# What the database has to get right: `make test` runs these on MySQL too, `make test-mysql` all.
DATABASE_MODULES = frozenset(
    {
        "e2e/servers/test_database_away",
        "e2e/servers/test_limits_across_servers",
        "integration/access/test_keys_in_the_log",
        "integration/audit/test_erasure",
        "integration/database/test_doctor",
        "integration/database/test_mariadb_support",
        "integration/database/test_production_accounts",
        "integration/database/test_statements",
        "integration/jobs/test_outbox",
        "integration/log/test_audit_plans",
        "integration/log/test_event_log",
        "integration/log/test_evolution",
        "integration/log/test_stored_log",
        "integration/writer/test_writer",
    }
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules without a test of the database where those alone are asked for: to collect
    all modules takes 16 seconds, in each of the processes that run tests.
    """
    if config.option.markexpr != "database" or collection_path.suffix != ".py":
        return None
    is_marked = _module(collection_path) in DATABASE_MODULES
    return None if is_marked or "mark.database" in collection_path.read_text() else True


def _module(path: Path) -> str:
    return path.relative_to(TESTS).with_suffix("").as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_repetition(item)]
    for item in items:
        if _module(item.path) in DATABASE_MODULES:
            item.add_marker("database")


def pytest_collection_finish() -> None:
    """Let the garbage collector pass seldom, as in a server, and not over all tests each time: it
    took 28 % of the time of tests that start a server.
    """
    tune_collector()


def _is_repetition(item: pytest.Item) -> bool:
    """Return True for a test on the server that is marked `one_database`, and is run on SQLite; and
    for one on SQLite in a run on another server, which comes after a run without it.
    """
    assert isinstance(item, pytest.Function)
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    backend = parameters.get("backend")
    if OTHER_SERVER:
        return bool(backend == "sqlite")
    return backend == "mariadb" and item.get_closest_marker("one_database") is not None


def pytest_report_header() -> list[str]:
    server = "MySQL" if MYSQLD else "MariaDB"
    if OTHER_SERVER:
        server += f" ({OTHER_SERVER}), wherever a test says mariadb"
    return [f"database server: {server}", f"client's wheel: installed for {client_interpreter()}"]


@pytest.fixture(scope="module", params=["mariadb"] if OTHER_SERVER else ["sqlite", "mariadb"])
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database: an SQLite file, or the server (another one in the place of this
    machine's MariaDB, where `FAIRLOG_TEST_MYSQLD` or `FAIRLOG_TEST_MARIADBD` says so). For one kind
    only: `parametrize("backend", […], indirect=True)`, or the mark `one_database`, where it does
    not matter which.
    """
    return str(request.param)


@pytest.fixture(scope="module")
def new_database_url(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewDatabase]:
    """Makes as many databases of the kind `backend` as the test wants."""
    databases: Databases = (
        SqliteFiles(tmp_path_factory.mktemp("databases"))
        if backend == "sqlite"
        else request.getfixturevalue("mariadb")
    )
    new_database = NewDatabase(databases)
    yield new_database
    new_database.drop_all()


@pytest.fixture
def database_url(new_database_url: NewDatabase) -> Iterator[str]:
    """A fresh, empty database for this test, dropped after it."""
    url = new_database_url()
    yield url
    new_database_url.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the log's tables."""
    opened = Database(database_url)
    migrate(opened)
    protect_events(opened)
    yield opened
    opened.close()
