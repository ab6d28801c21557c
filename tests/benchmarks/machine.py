"""The machine and the versions that the figures were measured with."""

import os
import platform
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.support.mariadb import MariaDB

_PACKAGES: Final = ("litestar", "uvicorn", "uvloop", "msgspec", "sqlalchemy", "pymysql")


def machine() -> str:
    """Cores, processor, memory and system in one line."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({_processor()}), {gigabytes:.0f} GB of memory, "
        f"{platform.system()} {platform.release()}; load average at the end {load:.1f}"
    )


def versions(servers: Sequence[MariaDB]) -> tuple[str, ...]:
    """Return the versions of what the figures depend on, with those of the database servers."""
    return (
        f"Python {platform.python_version()}",
        *map(_server_version, servers),
        f"SQLite {sqlite3.sqlite_version}",
        *(f"{package} {version(package)}" for package in _PACKAGES),
    )


def today() -> str:
    """UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _server_version(server: MariaDB) -> str:
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        found = cursor.fetchone()
        assert found is not None
    return f"{'MySQL' if server.is_mysql else 'MariaDB'} {found[0]}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
