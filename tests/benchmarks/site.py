"""The site of a run: databases on disk, the server under test, and logs prepared once.

MariaDB is private, on loopback, with commits as durable as in production and a buffer pool and log
of a usual size. Everything is in one folder under /var/tmp, which goes at the end.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast

from tests.benchmarks.serving import BenchmarkServer
from tests.support.databases import SqliteFiles
from tests.support.mariadb import MariaDB
from tests.support.repository import ROOT

Kind = Literal["mariadb", "sqlite", "mariadb-11", "mysql"]
KINDS: Final[tuple[Kind, ...]] = ("mariadb", "sqlite")  # of most benchmarks
TITLES: Final[Mapping[Kind, str]] = {
    "mariadb": "MariaDB",
    "sqlite": "SQLite",
    "mariadb-11": "MariaDB 11.8",
    "mysql": "MySQL 9.7",
}
SERVER_OPTIONS: Final = (
    "--innodb-buffer-pool-size=4G",  # a million jobs take some 3 GB
    "--innodb-flush-log-at-trx-commit=1",
)
MARIADB_OPTIONS: Final = (*SERVER_OPTIONS, "--innodb-log-file-size=512M")
MYSQL_OPTIONS: Final = (*SERVER_OPTIONS, "--innodb-redo-log-capacity=512M")
UNLIMITED: Final = 1_000_000_000  # submissions a window

_FOLDER: Final = Path("/var/tmp")  # noqa: S108 (on disk, where /tmp may be memory; mkdtemp names it)
_PREFIX: Final = "fairlog-benchmarks-"
# The servers that `make bench` fetches, or names; the others are this machine's own.
_PROGRAMS: Final[Mapping[Kind, Path]] = {
    "mariadb-11": Path(os.environ.get("BENCH_MARIADBD", ROOT / ".mariadb-11" / "bin" / "mariadbd")),
    "mysql": Path(os.environ.get("BENCH_MYSQLD", ROOT / ".mysql" / "bin" / "mysqld")),
}

T = TypeVar("T")


class Site:
    """A context manager. `quick`: sizes that show that a benchmark works, and nothing else."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.rounds = 1 if quick else 3  # of measures that take turns
        self.seconds = 2 if quick else 3  # of one load on a server
        self.has_run: set[str] = set()  # benchmarks, by name
        self._servers: dict[Kind, MariaDB] = {}
        self._prepared: dict[tuple[str, ...], Any] = {}
        self.home: Path  # where databases are, and what else needs room on the disk

    def __enter__(self) -> Self:
        _remove_what_dead_runs_left()
        self.home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_FOLDER))
        self.home.chmod(0o755)  # the database's account has to enter
        self._sqlite = SqliteFiles(self.home)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def mariadb(self) -> MariaDB:
        """This machine's own."""
        return self.database_server("mariadb")

    def has(self, kind: Kind) -> bool:
        """Return False for a database server whose program is not here."""
        return kind not in _PROGRAMS or _PROGRAMS[kind].exists()

    def database_server(self, kind: Kind) -> MariaDB:
        """Start it when it is first asked for; to be asked for in the main thread."""
        if kind not in self._servers:
            options = MYSQL_OPTIONS if kind == "mysql" else MARIADB_OPTIONS
            server = MariaDB(options, self.home, _PROGRAMS.get(kind))
            self._servers[kind] = server.__enter__()
        return self._servers[kind]

    @property
    def servers(self) -> Sequence[MariaDB]:
        """Those that were started."""
        return list(self._servers.values())

    def new_database(self, kind: Kind) -> str:
        """The URL of an empty database."""
        return self._databases(kind).create_database()

    def drop_database(self, kind: Kind, url: str) -> None:
        self._databases(kind).drop_database(url)

    def server(
        self, url: str, *, bare: bool = False, settings: Mapping[str, object] | None = None
    ) -> BenchmarkServer:
        """`fairlog serve` on a database, with the no-op beside its routes; no limits are reached.

        `bare`: an application that has the no-op and nothing of ours.
        """
        limits = {"user_limit": UNLIMITED, "global_limit": UNLIMITED}
        return BenchmarkServer(url, bare=bare, settings=limits | dict(settings or {}))

    def prepared(self, make: Callable[[], T], *key: str) -> T:
        """Return what `make` returns, made once a run: filling takes longer than measuring."""
        if key not in self._prepared:
            self._prepared[key] = make()
        return cast("T", self._prepared[key])

    def note(self, text: str) -> None:
        print(f"  … {text}", flush=True)

    def _databases(self, kind: Kind) -> SqliteFiles | MariaDB:
        return self._sqlite if kind == "sqlite" else self.database_server(kind)


def _remove_what_dead_runs_left() -> None:
    for home in _FOLDER.glob(f"{_PREFIX}*-*"):
        owner = home.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(home, ignore_errors=True)
