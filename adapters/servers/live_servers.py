"""The servers that run on a database, with their names and settings.

The table has a few rows and is no part of the log: it is created when missing, and may be dropped.
Each server holds its name by a lease on the database's clock, which it renews; reads for a change
are made under the head lock. A row is out of date when its lease has ended, or when its process is
certainly dead: it ran on this machine and exists no more.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from domain.language.identifiers import ServerId

LEASE_SECONDS: Final = 10.0
RENEW_SECONDS: Final = 3.0
_LEASE_MICROS: Final = int(LEASE_SECONDS * 1_000_000)

_START_TIME: Final = 19  # index among the fields after the name in /proc/PID/stat, see proc(5)

Setting = bool | int | float | str | None  # None: not set

metadata = sa.MetaData()
_name = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")

live_servers = sa.Table(
    "live_servers",
    metadata,
    sa.Column("name", _name, primary_key=True),
    sa.Column("token", sa.String(32), nullable=False, comment="of the process that has the name"),
    sa.Column("lease_until", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("about", sa.String(4000), nullable=False, comment="JSON: process and settings"),
)


class ProcessIdentity(Struct, frozen=True):
    """An identity of a process that no other process has or ever had."""

    host: str
    pid: int
    boot: str  # id of its machine's boot; empty if unknown
    namespace: str  # of the pid
    started: str  # when, in clock ticks since the boot

    def is_certainly_dead(self) -> bool:
        """Return False if it is alive, or if this process cannot know."""
        here = this_process()
        if not self.boot or (self.boot, self.namespace) != (here.boot, here.namespace):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        started = _started(self.pid)
        return started not in {"", self.started}


class LiveServer(Struct, frozen=True):
    """A row of the table, as its server wrote it."""

    name: ServerId
    token: str
    lease_until: int  # UTC, microseconds by the database's clock
    process: ProcessIdentity
    settings: Mapping[str, Setting]  # those that all servers must share

    def is_alive(self, now_micros: int) -> bool:
        return self.lease_until > now_micros and not self.process.is_certainly_dead()


class _About(Struct, frozen=True):
    process: ProcessIdentity
    settings: dict[str, Setting]


class LiveServers:
    """The table. Every change but a renewal is made under the head lock."""

    def __init__(self, database: Database, log: SqlEventLog) -> None:
        self._database = database
        self._log = log

    def others(self, token: str) -> list[LiveServer]:
        """Return all live servers but the one with the token."""
        with self._database.read() as connection:
            now = self._log.reading(connection).clock
            return [one for one in _all(connection) if one.token != token and one.is_alive(now)]

    def join(self, server: LiveServer) -> list[LiveServer]:
        """Take the name for LEASE_SECONDS, unless live servers have it or have other settings.

        Return those servers: if there are none, the name is taken. On SQLite the lock on the file
        has proven that no other server has the name (see `server_lock`).
        """
        with self._database.write() as connection:
            self._log.lock_head(connection)
            now = self._log.reading(connection).clock
            known = _all(connection)
            is_sole = self._database.is_sqlite
            alive = [
                one
                for one in known
                if one.is_alive(now)
                and one.token != server.token
                and not (is_sole and one.name == server.name)
            ]
            conflicting = [
                one for one in alive if one.name == server.name or differing(one, server.settings)
            ]
            if conflicting:
                return conflicting
            gone = {one.name for one in known} - {one.name for one in alive} | {server.name}
            for name in sorted(gone):
                connection.execute(live_servers.delete().where(_is_named(name)))
            connection.execute(
                live_servers.insert().values(
                    name=server.name.encode(),
                    token=server.token,
                    lease_until=now + _LEASE_MICROS,
                    about=msgspec.json.encode(
                        _About(server.process, dict(server.settings))
                    ).decode(),
                )
            )
        return []

    def renew(self, server: LiveServer) -> int | None:
        """Extend the lease to LEASE_SECONDS from now, and return the number of other live servers.

        Returns None if the row is not its own.
        """
        now = self._log.clock_expression()
        with self._database.write(is_patient=False) as connection:
            renewed = connection.execute(
                live_servers.update()
                .where(_is_named(server.name), live_servers.c.token == server.token)
                .values(lease_until=now + _LEASE_MICROS)
            )
            if renewed.rowcount != 1:
                return None
            return connection.execute(
                sa.select(sa.func.count()).where(
                    live_servers.c.token != server.token, live_servers.c.lease_until > now
                )
            ).scalar_one()

    def leave(self, server: LiveServer) -> None:
        with self._database.write(is_patient=False) as connection:
            connection.execute(
                live_servers.delete().where(
                    _is_named(server.name), live_servers.c.token == server.token
                )
            )


def differing(server: LiveServer, settings: Mapping[str, Setting]) -> list[str]:
    """Return the names of settings that differ. One that the server does not have is equal."""
    return [
        name
        for name, value in settings.items()
        if name in server.settings and server.settings[name] != value
    ]


def this_process() -> ProcessIdentity:
    return ProcessIdentity(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot=_text("/proc/sys/kernel/random/boot_id"),
        namespace=_namespace(),
        started=_started(os.getpid()),
    )


def _all(connection: Connection) -> list[LiveServer]:
    rows = connection.execute(sa.select(live_servers).order_by(live_servers.c.name))
    found = []
    for row in rows:
        about = msgspec.json.decode(row.about, type=_About)
        name = ServerId(bytes(row.name).decode())
        found.append(LiveServer(name, row.token, row.lease_until, about.process, about.settings))
    return found


def _is_named(name: ServerId) -> sa.ColumnElement[bool]:
    return live_servers.c.name == name.encode()


def _started(pid: int) -> str:
    behind_name = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return behind_name[_START_TIME] if len(behind_name) > _START_TIME else ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""
