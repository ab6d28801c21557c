"""Sessions of people who logged in to the dashboard with an API key.

The table is no part of the log: it is created when missing and may be dropped, and then everybody
has to log in again. A row has the SHA-256 of the session's token, so whoever reads the table, or a
backup of it, cannot continue a session. All servers of a database know all sessions. Times are the
log's.
"""

import secrets
from hashlib import sha256
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from domain.language.commands import Caller
from domain.language.identifiers import KeyName, SecretId
from domain.language.moments import to_micros

LIFETIME_SECONDS: Final = 12 * 3600  # from the login
IDLE_SECONDS: Final = 30 * 60  # from the latest request
NOTE_USE_SECONDS: Final = 60  # between two updates of the time of the latest request
SESSIONS_PER_KEY_MAX: Final = 100  # beyond it, the oldest one ends
_TOKEN_BYTES: Final = 32  # of entropy
_MICROS: Final = 1_000_000

metadata = sa.MetaData()
_digest = sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")
_name = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")

dashboard_sessions = sa.Table(
    "dashboard_sessions",
    metadata,
    sa.Column("token_sha256", _digest, primary_key=True),
    sa.Column("key_name", _name, nullable=False, comment="of the API key"),
    sa.Column("secret_id", sa.String(11), nullable=False, comment="of the key, as logged in with"),
    sa.Column("started_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("used_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
)


class Session(Struct, frozen=True):
    """A session that has not ended. Its key may have."""

    caller: Caller
    started_at: int  # UTC, microseconds
    used_at: int  # UTC, microseconds; up to NOTE_USE_SECONDS before the latest request

    def ends_at(self) -> int:
        """Return when it ends if it is not used again, in microseconds, exclusive."""
        return min(
            self.started_at + LIFETIME_SECONDS * _MICROS, self.used_at + IDLE_SECONDS * _MICROS
        )


class DashboardSessions:
    """The table. Its methods block."""

    def __init__(self, database: Database, log: SqlEventLog) -> None:
        self._database = database
        self._log = log

    def start(self, caller: Caller) -> str:
        """Begin a session and return its token, which no earlier session had."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        columns = dashboard_sessions.c
        is_same_key = columns.key_name == caller.key.encode()
        with self._database.write(is_patient=False) as connection:
            now = self._now(connection)
            connection.execute(
                dashboard_sessions.delete().where(
                    (columns.started_at <= now - LIFETIME_SECONDS * _MICROS)
                    | (columns.used_at <= now - IDLE_SECONDS * _MICROS)
                )
            )
            others = connection.execute(
                sa.select(columns.token_sha256)
                .where(is_same_key)
                .order_by(columns.started_at.desc(), columns.token_sha256)
            ).scalars()
            if oldest := list(others)[SESSIONS_PER_KEY_MAX - 1 :]:
                connection.execute(
                    dashboard_sessions.delete().where(columns.token_sha256.in_(oldest))
                )
            connection.execute(
                dashboard_sessions.insert().values(
                    token_sha256=digest_of(token),
                    key_name=caller.key.encode(),
                    secret_id=caller.secret,
                    started_at=now,
                    used_at=now,
                )
            )
        return token

    def find(self, connection: Connection, digest: bytes) -> Session | None:
        """Return the session of a token, by its digest; None if there is none, or it has ended."""
        row = connection.execute(
            sa.select(dashboard_sessions).where(dashboard_sessions.c.token_sha256 == digest)
        ).one_or_none()
        if row is None:
            return None
        caller = Caller(KeyName(bytes(row.key_name).decode()), SecretId(row.secret_id))
        session = Session(caller, row.started_at, row.used_at)
        return session if self._now(connection) < session.ends_at() else None

    def note_use(self, digest: bytes) -> None:
        """Record that a session is used now."""
        with self._database.write(is_patient=False) as connection:
            connection.execute(
                dashboard_sessions.update()
                .where(dashboard_sessions.c.token_sha256 == digest)
                .values(used_at=self._now(connection))
            )

    def end(self, digest: bytes) -> None:
        """End a session, if there is one."""
        with self._database.write(is_patient=False) as connection:
            connection.execute(
                dashboard_sessions.delete().where(dashboard_sessions.c.token_sha256 == digest)
            )

    def _now(self, connection: Connection) -> int:
        return to_micros(self._log.now(connection))


def digest_of(token: str) -> bytes:
    """Return the SHA-256 of a token, by which its session is found."""
    return sha256(token.encode()).digest()
