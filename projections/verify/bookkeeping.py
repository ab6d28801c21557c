"""The check of the registry and the checkpoints against the log.

The registry names the current generations, and a checkpoint the position that one has reached;
neither can be derived from the log. So each is tied to something that changes with it: the head row
has a digest of the registry, and a checkpoint the hash of the log at its position.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.log.stored_log import StoredHead, StoredLog
from projections.following.checkpoints import checkpoints
from projections.storage import registry
from projections.storage.generations import Tabled
from projections.storage.registry import Registered
from projections.verify.chain_check import in_hex
from projections.verify.findings import Difference

REGISTRY: Final = "registry"  # used in a `Difference` as the name of the projection


def differences(
    log: StoredLog[Connection],
    snapshot: Connection,
    head: StoredHead,
    following: Sequence[Tabled],
) -> Iterator[Difference]:
    """Yield each row that this release would not have written. Any column may hold anything."""
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
            continue  # reported where its rows would be compared
        key = (projection.name, known.generation)
        row = rows.pop(key, None)
        if row is None:
            yield _difference(projection.name, key, "no row", "a row")
            continue
        if row.version != projection.version:
            yield _difference(
                projection.name, key, f"version={row.version!r}", f"version={projection.version}"
            )
        expected = _hash_at(log, snapshot, head, row.position)
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
        if not _may_be_leftover(key, registered):
            yield _difference(REGISTRY, key, "a row", "no row")


def mend(connection: Connection) -> None:
    """Correct the registry, and delete checkpoints that no release leaves.

    The caller holds the head lock, and stores the registry's new digest in the head row.
    """
    connection.execute(
        registry.registry.update()
        .where(registry.registry.c.newest < registry.registry.c.generation)
        .values(newest=registry.registry.c.generation)
    )
    registered = registry.read(connection)
    for row in connection.execute(sa.select(checkpoints.c.name, checkpoints.c.generation)).all():
        if not _may_be_leftover((row.name, row.generation), registered):
            connection.execute(
                checkpoints.delete().where(
                    checkpoints.c.name == row.name, checkpoints.c.generation == row.generation
                )
            )


def _difference(projection: str, key: tuple[str, int], live: str, from_log: str) -> Difference:
    name, generation = key
    shown = f"name={name!r}, generation={generation!r}"
    return Difference(projection, checkpoints.name, shown, live, from_log)


def _hash_at(
    log: StoredLog[Connection], snapshot: Connection, head: StoredHead, position: object
) -> object | None:
    if not isinstance(position, int) or position < head.cut:
        return None
    if position == head.cut:
        return head.cut_hash
    found = log.rows(snapshot, position - 1, 1)
    return found[0][7] if found and found[0][0] == position else None


def _is_within(position: object, end: int) -> bool:
    return isinstance(position, int) and 0 <= position <= end


def _may_be_leftover(key: tuple[str, int], registered: dict[str, Registered]) -> bool:
    """Return True if a rebuild may be filling the generation, or was killed while it did."""
    name, generation = key
    found = registered.get(name)
    return found is not None and isinstance(generation, int) and 0 < generation <= found.newest
