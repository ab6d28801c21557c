"""The latest polls of workers, as each server has seen them, for the dashboard and `explain`.

An empty claim is no event, so the log does not say that an idle worker lives. The table is no part
of the log: it is created when missing and may be dropped. Each server writes only its own rows.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from domain.language.identifiers import Kind, ServerId, WorkerId

KEPT_SECONDS: Final = 3600  # rows of a server that no longer runs are deleted after it
KINDS_BYTES_MAX: Final = 60_000  # of a worker; further kinds are not stored
ROWS_READ_MAX: Final = 2_000  # the latest polls
_MICROS: Final = 1_000_000

metadata = sa.MetaData()
_name = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")

worker_polls = sa.Table(
    "worker_polls",
    metadata,
    sa.Column("server", _name, primary_key=True, comment="that the worker polled"),
    sa.Column("worker", _name, primary_key=True),
    sa.Column("polled_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("kinds", sa.LargeBinary, comment="JSON: a list of names; NULL: any"),
)


class StoredPoll(Struct, frozen=True):
    """The latest poll of a worker at one server."""

    worker: WorkerId
    kinds: Sequence[Kind] | None  # that it asked for; None: any
    polled_at: int  # UTC, microseconds by the log's clock


def replace_polls(
    connection: Connection, server: ServerId, polls: Sequence[StoredPoll], now: int
) -> None:
    """Replace the rows of a server, and delete those that are older than KEPT_SECONDS.

    `now` is the log's time in microseconds.
    """
    columns = worker_polls.c
    is_old = columns.polled_at < now - KEPT_SECONDS * _MICROS
    # Read before, so that no lock is taken on the rows of other servers that run.
    gone = connection.execute(sa.select(columns.server).where(is_old).distinct()).scalars().all()
    connection.execute(worker_polls.delete().where(columns.server == server.encode()))
    for one in gone:
        connection.execute(worker_polls.delete().where(columns.server == one, is_old))
    if polls:
        connection.execute(
            worker_polls.insert(),
            [
                {
                    "server": server.encode(),
                    "worker": poll.worker.encode(),
                    "polled_at": poll.polled_at,
                    "kinds": None if poll.kinds is None else _encoded(poll.kinds),
                }
                for poll in polls
            ],
        )


def read_polls(connection: Connection) -> list[StoredPoll]:
    """Return the latest ROWS_READ_MAX polls, the newest first; a worker may have several."""
    rows = connection.execute(
        sa.select(worker_polls.c.worker, worker_polls.c.polled_at, worker_polls.c.kinds)
        .order_by(worker_polls.c.polled_at.desc(), worker_polls.c.worker)
        .limit(ROWS_READ_MAX)
    )
    return [
        StoredPoll(
            WorkerId(bytes(row.worker).decode()),
            None if row.kinds is None else msgspec.json.decode(row.kinds, type=list[Kind]),
            row.polled_at,
        )
        for row in rows
    ]


def _encoded(kinds: Sequence[Kind]) -> bytes:
    names: list[Kind] = []
    size = 2
    for kind in kinds:
        size += len(msgspec.json.encode(kind)) + 1
        if size > KINDS_BYTES_MAX:
            break
        names.append(kind)
    return msgspec.json.encode(names)
