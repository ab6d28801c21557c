"""The log: events, bodies and the head row, and triggers that keep events as they are.

A step that was done before does nothing: two servers may run it at once, and MySQL commits
every DDL statement by itself. Nothing is imported from current code, which may change.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_identifier = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
_hash = sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")
_blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_type = sa.String(64).with_variant(
    mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
)
_INDEXES = {"events_by_user": "user_id", "events_by_job": "job_id", "events_by_type": "type"}


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("type", _type, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("user_id", _identifier),
        sa.Column("job_id", sa.BigInteger),
        sa.Column("recorded_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
        sa.Column("data", _blob, nullable=False, comment="the event as compact JSON"),
        sa.Column("hash", _hash, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "bodies",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("body", _blob, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "log_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("hash", _hash, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column(
            "epoch", sa.BigInteger, nullable=False, comment="raised at each generation switch"
        ),
        if_not_exists=True,
    )
    connection = op.get_bind()
    present = {index["name"] for index in sa.inspect(connection).get_indexes("events")}
    for name, column in _INDEXES.items():
        if name not in present:
            op.create_index(name, "events", [column])
    _insert_head(connection)


def _insert_head(connection: sa.Connection) -> None:
    head = sa.table(
        "log_head",
        sa.column("id"),
        sa.column("position"),
        sa.column("hash", _hash),
        sa.column("recorded_at"),
        sa.column("format"),
        sa.column("epoch"),
    )
    if connection.execute(sa.select(head.c.id)).first() is None:
        op.execute(
            head.insert().values(id=1, position=0, hash=bytes(32), recorded_at=0, format=1, epoch=1)
        )
