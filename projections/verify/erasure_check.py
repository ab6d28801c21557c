"""Bodies that are not there: erased, as an event says, or missing.

The event comes long after the one whose body it was, so those that are missing are kept in the
scratch database until it does.
"""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.events import BodiesErased
from domain.language.identifiers import UserId
from projections.storage.rows import create_all, insert
from projections.verify.findings import FindingsSink

_MISSING_PER_PAGE = 1000

_missing = sa.Table(
    "missing_bodies",
    sa.MetaData(),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
)


class ErasureCheck:
    def __init__(self, scratch: Connection, told: FindingsSink) -> None:
        self.erased: dict[UserId, int] = {}  # bodies
        self._scratch = scratch
        self._told = told
        create_all(scratch, [_missing])

    def take_missing(self, positions: Iterable[int]) -> None:
        insert(self._scratch, _missing, [(position,) for position in positions])

    def take(self, position: int, event: BodiesErased) -> None:
        for erased in event.positions:
            found = self._scratch.execute(_missing.delete().where(_missing.c.position == erased))
            if not found.rowcount:
                self._told.about(
                    position, f"it erased the body at {erased}, which is there or never was"
                )
        self.erased[event.user_id] = self.erased.get(event.user_id, 0) + len(event.positions)

    def take_end(self) -> None:
        after = 0
        while found := self._page(after):
            for position in found:
                self._told.about(position, "its body is missing")
            after = found[-1]

    def _page(self, after: int) -> list[int]:
        rows = self._scratch.execute(
            sa.select(_missing.c.position)
            .where(_missing.c.position > after)
            .order_by(_missing.c.position)
            .limit(_MISSING_PER_PAGE)
        )
        return list(rows.scalars())
