"""Which generation of each projection is the current one.

One row a projection. A rebuild fills a generation of its own and makes it current by changing the
row under the head lock; nobody writes the row without that lock. Whoever does stores a digest of
all rows in the head (`digest_of`): so every process hears of it with its next batch,
and a change that was made by hand is found.
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
    version: int
    generation: int  # 0: never built
    newest: int = 0  # the highest ever handed out

    @property
    def is_built(self) -> bool:
        return self.generation != _UNBUILT


def read(connection: Connection) -> dict[str, Registered]:
    rows = connection.execute(sa.select(registry))
    return {name: Registered(*numbers) for name, *numbers in rows}


def digest_of(connection: Connection) -> int:
    """Return 62 bits of a digest of all rows.

    The log adds the position of the latest correction of the clock and stores the sum in the
    column `log_head.epoch`.
    """
    rows = sorted(
        msgspec.json.encode(tuple(row)) for row in connection.execute(sa.select(registry))
    )
    return int.from_bytes(sha256(b"\n".join(rows)).digest()[:8]) >> 2


def current(name: str) -> sa.ColumnElement[int]:
    """The current generation as an expression, so that a query and its generation are one read."""
    return sa.select(registry.c.generation).where(registry.c.name == name).scalar_subquery()


def reserve(connection: Connection, projection: Versioned) -> int:
    """Hand out a new generation, never used before. Needs the head lock."""
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
    newest = (
        max(found.newest, found.generation) + 1
    )  # a generation that was put there by hand may be beyond the newest
    connection.execute(
        registry.update().where(registry.c.name == projection.name).values(newest=newest)
    )
    return int(newest)


def switch(connection: Connection, projection: Versioned, generation: int) -> int:
    """Make a generation the current one, unless a later one is; which it then is.

    Going back would bring to life what the later rebuild is deleting. Needs the head lock.
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
    """Raises `LogTooNew` when another process runs a newer release of a projection."""
    for projection in projections:
        found = registered.get(projection.name)
        if found is not None and found.version > projection.version:
            raise LogTooNew(
                f"The projection {projection.name!r} has version {found.version}, and this release "
                f"knows up to {projection.version}; install the newer release here too."
            )
