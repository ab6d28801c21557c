"""What is written about projections, the registry and the checkpoints, held against the log.

The registry says which rows count, and a checkpoint how far they have come; neither can be told
from the log. So each has something beside it that changes with it: the head's epoch is made of the
registry, and a checkpoint has the hash of the log at its position.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.log.chain import GENESIS
from domain.log.stored_log import StoredHead, StoredLog
from projections.following.async_projector import checkpoints
from projections.storage import registry
from projections.storage.generations import Tabled
from projections.storage.registry import Registered
from projections.verify.chain_check import in_hex
from projections.verify.findings import Difference

REGISTRY: Final = "registry"  # stands in findings where a projection's name would


def differences(
    log: StoredLog[Connection],
    snapshot: Connection,
    head: StoredHead,
    following: Sequence[Tabled],
) -> Iterator[Difference]:
    """Tell of each row that is not as a release like this one leaves it. Any may hold anything."""
    digest = registry.digest_of(snapshot)
    if head.registry_digest != digest:
        yield Difference(
            REGISTRY,
            registry.registry.name,
            "name, version, generation, newest of all rows",
            f"give {digest} for the epoch",
            f"{head.registry_digest!r}, by log_head.epoch",
        )
    registered = registry.read(snapshot)
    for name, found in registered.items():
        if not 0 <= found.generation <= found.newest:
            yield Difference(
                REGISTRY,
                registry.registry.name,
                f"name={name!r}",
                f"generation={found.generation}, newest={found.newest}",
                "generation <= newest",
            )
    rows = {(row.name, row.generation): row for row in snapshot.execute(sa.select(checkpoints))}
    for projection in following:
        known = registered.get(projection.name)
        if known is None or not known.is_built:
            continue  # which is told where its rows would be compared
        key = (projection.name, known.generation)
        row = rows.pop(key, None)
        if row is None:
            yield _difference(projection.name, key, "no row", "a row")
            continue
        if row.version != projection.version:
            yield _difference(
                projection.name, key, f"version={row.version!r}", f"version={projection.version}"
            )
        expected = _hash_at(log, snapshot, row.position)
        if not _is_within(row.position, head.position) or expected is None:
            yield _difference(
                projection.name, key, f"position={row.position!r}", f"at most {head.position}"
            )
        elif row.hash != expected:
            yield _difference(
                projection.name,
                key,
                f"position={row.position}, hash={in_hex(row.hash)}",
                f"hash={in_hex(expected)}",
            )
    for key in rows:
        if not _may_be_left(key, registered):
            yield _difference(REGISTRY, key, "a row", "no row")


def mend(connection: Connection) -> None:
    """Remove what no release leaves. The rows of a projection that differ are for a rebuild.

    Needs the head lock; the head's epoch has to be made anew.
    """
    connection.execute(
        registry.registry.update()
        .where(registry.registry.c.newest < registry.registry.c.generation)
        .values(newest=registry.registry.c.generation)
    )
    registered = registry.read(connection)
    for row in connection.execute(sa.select(checkpoints.c.name, checkpoints.c.generation)).all():
        if not _may_be_left((row.name, row.generation), registered):
            connection.execute(
                checkpoints.delete().where(
                    checkpoints.c.name == row.name, checkpoints.c.generation == row.generation
                )
            )


def _difference(projection: str, key: tuple[str, int], live: str, from_log: str) -> Difference:
    name, generation = key
    shown = f"name={name!r}, generation={generation!r}"
    return Difference(projection, checkpoints.name, shown, live, from_log)


def _hash_at(log: StoredLog[Connection], snapshot: Connection, position: object) -> object | None:
    if not isinstance(position, int) or position < 0:
        return None
    if position == 0:
        return GENESIS
    found = log.rows(snapshot, position - 1, 1)
    return found[0][7] if found and found[0][0] == position else None


def _is_within(position: object, end: int) -> bool:
    return isinstance(position, int) and 0 <= position <= end


def _may_be_left(key: tuple[str, int], registered: dict[str, Registered]) -> bool:
    """Returns True for one that a rebuild is filling, or that one left when it was killed."""
    name, generation = key
    found = registered.get(name)
    return found is not None and isinstance(generation, int) and 0 < generation <= found.newest
