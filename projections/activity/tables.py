"""The tables of the activity projection, and how their rows are read and written.

All are bounded: by the time they reach back, by the jobs that have not ended, by the users who have
such jobs, and by the workers seen lately.
"""

from typing import Final

import msgspec
import sqlalchemy as sa

from projections.activity.metrics import ActivityMetrics, Leading
from projections.storage.rows import ROW_BYTES, Document, Identifier, Query, generation

VERSION: Final = 1
ALL_KINDS: Final = b""
metadata = sa.MetaData()

slots = sa.Table(
    f"activity_slots_v{VERSION}",
    metadata,
    generation(),
    sa.Column("seconds", sa.Integer, primary_key=True, autoincrement=False, comment="its length"),
    sa.Column(
        "start",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="UTC, seconds since the epoch",
    ),
    sa.Column("kind", Identifier, primary_key=True, comment="empty: all together"),
    sa.Column("figures", Document, nullable=False),
    sa.Column("leaders", Document, comment="of all kinds together, where the length is a minute"),
    info={ROW_BYTES: 4096},
)

open_jobs = sa.Table(
    f"activity_jobs_v{VERSION}",
    metadata,
    generation(),
    sa.Column("job_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("ready_at", sa.BigInteger, comment="UTC, microseconds: in line since"),
    sa.Column("started_at", sa.BigInteger, comment="UTC, microseconds: running since"),
    sa.Column("worker", Identifier, comment="while running"),
    sa.Index(f"activity_jobs_v{VERSION}_by_worker", "generation", "worker", "job_id"),
)

users = sa.Table(
    f"activity_users_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
    sa.Index(f"activity_users_v{VERSION}_by_waiting", "generation", "waiting"),
)

workers = sa.Table(
    f"activity_workers_v{VERSION}",
    metadata,
    generation(),
    sa.Column("worker", Identifier, primary_key=True),
    sa.Column("server", Identifier, comment="that it runs inside of; NULL over HTTP"),
    sa.Column("running", sa.BigInteger, nullable=False),
    sa.Column("completed", sa.BigInteger, nullable=False, comment="since it was first seen"),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("first_seen", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("last_seen", sa.BigInteger, nullable=False),
    sa.Index(f"activity_workers_v{VERSION}_by_last_seen", "generation", "last_seen"),
)

TABLES: Final = (slots, open_jobs, users, workers)

jobs_by_id = Query(open_jobs, list(open_jobs.c)[1:], by=open_jobs.c.job_id)
users_by_id = Query(users, list(users.c)[1:], by=users.c.user_id)
workers_by_id = Query(workers, list(workers.c)[1:], by=workers.c.worker)

decode_figures = msgspec.json.Decoder(ActivityMetrics).decode
decode_leading = msgspec.json.Decoder(Leading).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def encode(row: ActivityMetrics | Leading) -> bytes:
    """With keys in order, so that equal figures are equal bytes however they came about."""
    return _encode(row.in_text() if isinstance(row, ActivityMetrics) else row)
