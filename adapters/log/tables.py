"""The log's own tables. Everything else can be rebuilt from them.

Once a part of the log is archived, `log_snapshot` and `log_tiles` have what that part leaves.

`position` is the only unique key and runs without gaps. There is no index on time: `recorded_at`
rises with `position`, so a search by time is a binary search of the primary key.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

metadata = sa.MetaData()

# The log's format; a process that reads a higher one stops. In format 2, `ClockCorrected` events
# determine the log's time; in format 3, events of API keys say who may write; in format 4, the rows
# of the inline projections stand at `log_head.saved`, which may be behind the log; in format 5, the
# events up to `log_head.archived` may be gone.
FORMAT: Final = 5
HEAD_ID: Final = 1

# Bytes, not text: to MySQL's utf8mb4_bin "a" and "a " are equal.
_identifier = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
_hash = sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")
_blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_type = sa.String(64).with_variant(
    mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("type", _type, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("user_id", _identifier),
    sa.Column("job_id", sa.BigInteger),
    sa.Column("recorded_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("data", _blob, nullable=False, comment="the event as compact JSON"),
    sa.Column("hash", _hash, nullable=False),
    # InnoDB appends the primary key to each, so an audit query is one ordered range.
    sa.Index("events_by_user", "user_id"),
    sa.Index("events_by_job", "job_id"),
    sa.Index("events_by_type", "type"),
)

bodies = sa.Table(
    "bodies",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("body", _blob, nullable=False),
)

log_head = sa.Table(
    "log_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("hash", _hash, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False),
    # The version of the head, `Head.version`. Its comment is that of the first release.
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="raised at each generation switch"),
    # Is no part of the log, but stands here because the head lock is needed to change it.
    sa.Column(
        "saved",
        sa.BigInteger,
        nullable=False,
        server_default="0",
        comment="position of the projections' rows",
    ),
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
)

# The projections at the end of the archived part, in parts; see `projections.storage.snapshot`.
log_snapshot = sa.Table(
    "log_snapshot",
    metadata,
    sa.Column("begun", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", _blob, nullable=False, comment="rows of the projections, compressed"),
)

# The full tiles of the Merkle tree over the archived part; see `projections.following.merkle`.
log_tiles = sa.Table(
    "log_tiles",
    metadata,
    sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("tile", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hashes", _blob, nullable=False, comment="256 of 32 bytes"),
)
