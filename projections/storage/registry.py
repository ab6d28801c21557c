"""The registry: one row per projection, which names its current generation.

A rebuild fills a new generation and makes it current by changing the row. The head lock is required
to write a row. The same transaction stores the digest of all rows in the head row, as part of
`Head.version`: so every writer notices the change with its next batch, and `fairlog verify` notices
a row that was changed by hand.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.decisions.ports import Versioned
from domain.language.errors import LogTooNew

metadata = sa.MetaData()

registry = sa.Table(
    "projection_registry",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False, comment="current; 0: never built"),
    sa.Column("newest", sa.BigInteger, nullable=False, comment="the highest ever handed out"),
)
_UNBUILT: Final = 0


class Registered(Struct, frozen=True):
    """The registry's row of one projection."""

    version: int  # of the tables and the fold that built the current generation
    generation: int  # 0: never built
    newest: int = 0  # the highest ever handed out

    @property
    def is_built(self) -> bool:
        return self.generation != _UNBUILT


def read(connection: Connection) -> dict[str, Registered]:
    """Return all rows, by the projection's name."""
    rows = connection.execute(sa.select(registry))
    return {name: Registered(*numbers) for name, *numbers in rows}


def digest_of(connection: Connection) -> int:
    """Return 62 bits of a SHA-256 over all rows.

    The log adds positions of events to it and stores the sum in the head row: see `Head.version`.
    """
    rows = sorted(
        msgspec.json.encode(tuple(row)) for row in connection.execute(sa.select(registry))
    )
    return int.from_bytes(sha256(b"\n".join(rows)).digest()[:8]) >> 2


def current(name: str) -> sa.ColumnElement[int]:
    """Return a subquery for a projection's current generation.

    With it a query and its generation are one read.
    """
    return sa.select(registry.c.generation).where(registry.c.name == name).scalar_subquery()


def current_text(name: str) -> str:
    """Return `current` as text, for a statement that is sent as text; `name` is a literal."""
    return f"(SELECT generation FROM {registry.name} WHERE name = '{name}')"


def reserve(connection: Connection, projection: Versioned) -> int:
    """Return a new generation, which was never used before. The caller holds the head lock."""
    found = connection.execute(
        sa.select(registry.c.newest, registry.c.generation).where(
            registry.c.name == projection.name
        )
    ).one_or_none()
    if found is None:
        connection.execute(
            registry.insert().values(name=projection.name, version=0, generation=_UNBUILT, newest=1)
        )
        return 1
    # A generation that was written by hand may be above the newest.
    newest = max(found.newest, found.generation) + 1
    connection.execute(
        registry.update().where(registry.c.name == projection.name).values(newest=newest)
    )
    return int(newest)


def switch(connection: Connection, projection: Versioned, generation: int) -> int:
    """Make a generation current unless a later one is; return the current one.

    Going back is refused, since the later rebuild deletes the rows of earlier generations. The
    caller holds the head lock.
    """
    connection.execute(
        registry.update()
        .where(registry.c.name == projection.name, registry.c.generation < generation)
        .values(version=projection.version, generation=generation)
    )
    found = connection.execute(
        sa.select(registry.c.generation).where(registry.c.name == projection.name)
    )
    return int(found.scalar_one())


def check_versions(registered: dict[str, Registered], projections: Sequence[Versioned]) -> None:
    """Raise `LogTooNew` if a newer release has built one of these projections."""
    for projection in projections:
        found = registered.get(projection.name)
        if found is not None and found.version > projection.version:
            raise LogTooNew(
                f"The projection {projection.name!r} has version {found.version}, and this release "
                f"knows up to {projection.version}; install the newer release here too."
            )
