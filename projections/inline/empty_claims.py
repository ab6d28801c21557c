"""Claims that were answered with nothing, for as long as they may be asked again.

A table beside the log, written in the writer's transactions: no part of the log, and no projection,
since no event says what it holds. It is made when it is missing and free to be dropped; then such a
claim that is asked again may be given jobs. Idle workers make its rows, so they go when they are
over, and the log does not grow by them.
"""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.jobs.claims import CLAIM_MICROS
from projections.storage.rows import digest, upsert

_CLEANING_MICROS: Final = 60_000_000  # from one removal to the next
# More than the rows that one batch can make, so that removing them keeps up with whatever comes.
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
    """Writes the table; who calls has the head lock. `projections.inline.jobs` reads it."""

    def __init__(self) -> None:
        self._cleaned_at = 0  # UTC, microseconds

    def note(self, connection: Connection, claims: Sequence[bytes], now: int) -> None:
        """Add claims made now (UTC, microseconds); once a minute, remove some that are over."""
        upsert(connection, empty_claims, [(claim, now) for claim in sorted(claims)])
        if now >= self._cleaned_at + _CLEANING_MICROS and self._remove(connection, now):
            self._cleaned_at = now

    def _remove(self, connection: Connection, now: int) -> bool:
        """Tell if all that are over are gone: else the next call goes on."""
        over = connection.execute(
            sa.select(empty_claims.c.claim_hash)
            .where(empty_claims.c.made_at <= now - CLAIM_MICROS)
            .order_by(empty_claims.c.made_at)
            .limit(ROWS_PER_REMOVAL_MAX)
        ).scalars()
        claims = list(over)
        if claims:
            connection.execute(empty_claims.delete().where(empty_claims.c.claim_hash.in_(claims)))
        return len(claims) < ROWS_PER_REMOVAL_MAX
