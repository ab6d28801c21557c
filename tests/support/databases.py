"""Fresh, empty databases for tests: on SQLite files, or on a MariaDB or MySQL server."""

import os
import secrets
from pathlib import Path
from typing import Protocol

import pymysql
from pymysql.cursors import Cursor
from sqlalchemy import URL, make_url

from adapters.database.mysql_driver import DriverConnection


class Databases(Protocol):
    """The source of a test's own databases."""

    def create_database(self) -> str:
        """Give the URL of a new, empty database."""

    def drop_database(self, url: str) -> None:
        """Remove a database made here, whoever still uses it. Gone already: nothing happens."""


class SqliteFiles:
    """Each database is a file of its own in `directory`; the file appears when it is opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create_database(self) -> str:
        return f"sqlite:///{self._directory / secrets.token_hex(6)}.db"

    def drop_database(self, url: str) -> None:
        path = Path(make_url(url).database or "")
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


class DatabaseServer:
    """A running server on which `admin` may create databases and end connections.

    `client` is the account that the URLs given out carry; None: the same as `admin`.
    The databases are called `fairlog_…`, so that an account can be granted just these.
    """

    def __init__(self, admin: URL, client: URL | None = None) -> None:
        self.admin = admin
        self._client = client or admin

    def create_database(self) -> str:
        """Give the URL of a new database in the server's own character set."""
        name = f"fairlog_{secrets.token_hex(6)}"
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        return self._client.set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Remove a database, ending its connections first: DROP would wait for their locks."""
        name = make_url(url).database
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
            for (connection_id,) in cursor.fetchall():
                _kill(cursor, connection_id)
            cursor.execute("SET lock_wait_timeout = 10")
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")

    def connect(self) -> "pymysql.Connection[Cursor]":
        """Connect as `admin`, each statement a transaction of its own.

        Raises pymysql.OperationalError when the server does not answer within 5 seconds.
        """
        return DriverConnection(  # it shares one TLS context
            host=self.admin.host,
            port=self.admin.port or 3306,
            user=self.admin.username,
            password=self.admin.password or "",
            connect_timeout=5,
            autocommit=True,
        )


def existing_server() -> DatabaseServer | None:
    """The server that FAIRLOG_TEST_DATABASE_URL names, where its user may create databases."""
    url = os.environ.get("FAIRLOG_TEST_DATABASE_URL")
    return DatabaseServer(make_url(url)) if url else None


def _kill(cursor: Cursor, connection_id: int) -> None:
    no_such_thread = 1094  # it has gone by itself
    try:
        cursor.execute("KILL %s", (connection_id,))
    except pymysql.OperationalError as error:
        if error.args[0] != no_such_thread:
            raise
