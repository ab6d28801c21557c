"""The tables of the activity projection, and the encoding of their documents.

Their size is bounded by the retention of time buckets, and by the open jobs, the users with open
jobs and the workers seen in the last hour.
"""

from typing import Final

import msgspec
import sqlalchemy as sa

from projections.activity.metrics import ActivityMetrics, TopCounts
from projections.storage.rows import ROW_BYTES, Document, Identifier, Query, generation

VERSION: Final = 1
ALL_KINDS: Final = b""
metadata = sa.MetaData()

buckets = sa.Table(
    f"activity_slots_v{VERSION}",
    metadata,
    generation(),
    sa.Column("seconds", sa.Integer, primary_key=True, autoincrement=False, comment="its length"),
    sa.Column(
        "start",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="Unix time, seconds",
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

TABLES: Final = (buckets, open_jobs, users, workers)

jobs_by_id = Query(open_jobs, list(open_jobs.c)[1:], by=open_jobs.c.job_id)
users_by_id = Query(users, list(users.c)[1:], by=users.c.user_id)
workers_by_id = Query(workers, list(workers.c)[1:], by=workers.c.worker)

decode_metrics = msgspec.json.Decoder(ActivityMetrics).decode
decode_top_counts = msgspec.json.Decoder(TopCounts).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def encode(document: ActivityMetrics | TopCounts) -> bytes:
    """Encode as JSON with sorted keys, so that equal metrics are equal bytes."""
    if isinstance(document, ActivityMetrics):
        return _encode(document.as_json_fields())
    return _encode(document)
