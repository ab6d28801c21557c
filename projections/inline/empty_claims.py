"""Claims that got no jobs, kept for as long as they may be repeated.

The table is written in the writer's transactions, but it is neither part of the log nor a
projection, since no event records its rows: idle workers would make the log grow. It is created
when it is missing and may be dropped; a repeated claim may then get jobs. Expired rows are deleted.
"""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.jobs.claims import CLAIM_MICROS
from projections.storage.rows import digest, upsert

_CLEANING_MICROS: Final = 60_000_000  # between two removals
# More than the rows that one batch can add, so that removal keeps up.
ROWS_PER_REMOVAL_MAX: Final = 500

metadata = sa.MetaData()

empty_claims = sa.Table(
    "empty_claims",
    metadata,
    sa.Column("claim_hash", digest(16), primary_key=True),
    sa.Column("made_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Index("empty_claims_by_time", "made_at"),
)


class EmptyClaims:
    """Writes the table; the caller holds the head lock. `projections.inline.jobs` reads it."""

    def __init__(self) -> None:
        self._cleaned_at = 0  # UTC, microseconds

    def note(self, connection: Connection, claims: Sequence[bytes], now: int) -> None:
        """Add claims made at `now` (Unix microseconds); once a minute, remove expired ones."""
        upsert(connection, empty_claims, [(claim, now) for claim in sorted(claims)])
        if now >= self._cleaned_at + _CLEANING_MICROS and self._remove(connection, now):
            self._cleaned_at = now

    def _remove(self, connection: Connection, now: int) -> bool:
        """Remove some expired claims; return True if none is left."""
        expired = connection.execute(
            sa.select(empty_claims.c.claim_hash)
            .where(empty_claims.c.made_at <= now - CLAIM_MICROS)
            .order_by(empty_claims.c.made_at)
            .limit(ROWS_PER_REMOVAL_MAX)
        ).scalars()
        claims = list(expired)
        if claims:
            connection.execute(empty_claims.delete().where(empty_claims.c.claim_hash.in_(claims)))
        return len(claims) < ROWS_PER_REMOVAL_MAX
