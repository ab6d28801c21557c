"""The head row says how far the log is archived, and two tables keep what the archive leaves.

Earlier releases read the log from its first event, and stop at the new format. Two servers may run
this migration at once.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"

_hash = sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")
_blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    present = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("log_head")}
    for column in (
        sa.Column(
            "archived",
            sa.BigInteger,
            nullable=False,
            server_default="0",
            comment="position of the last event that may be gone",
        ),
        sa.Column("archived_hash", _hash, comment="of the chain up to there"),
        sa.Column(
            "archived_snapshot",
            sa.BigInteger,
            nullable=False,
            server_default="0",
            comment="of the projections there, by its ArchiveBegun",
        ),
        sa.Column(
            "archive_begun",
            sa.BigInteger,
            nullable=False,
            server_default="0",
            comment="position of the latest ArchiveBegun",
        ),
        sa.Column(
            "closed_at",
            sa.BigInteger,
            nullable=False,
            server_default="0",
            comment="UTC, microseconds: jobs that had ended by then change no more",
        ),
    ):
        if column.name not in present:
            op.add_column("log_head", column)
    op.create_table(
        "log_snapshot",
        sa.Column("begun", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", _blob, nullable=False, comment="rows of the projections, compressed"),
        if_not_exists=True,
    )
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("tile", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hashes", _blob, nullable=False, comment="256 of 32 bytes"),
        if_not_exists=True,
    )
    op.execute("UPDATE log_head SET format = 5 WHERE format < 5")
