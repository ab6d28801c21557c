"""The tables that the log gives, in a scratch database, to compare with the live tables."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.errors import LogCorrupt
from domain.log.stored_log import CutLog, StoredHead
from projections.storage import registry
from projections.storage.generations import Tabled
from projections.storage.rows import create_for_folding
from projections.storage.snapshot import SnapshotPart, restore, unpacked
from projections.verify.comparison import Side, differences
from projections.verify.findings import Difference, FindingsSink

SCRATCH_GENERATION: Final = 1


class ExpectedTables:
    """The scratch tables of some projections, and the live ones to compare with them."""

    def __init__(
        self,
        snapshot: Connection,
        scratch: Connection,
        projections: Sequence[Tabled],
        sink: FindingsSink,
    ) -> None:
        """Raises `LogTooNew` when a projection was built by a newer release."""
        self._snapshot = snapshot
        self._scratch = scratch
        self._live = _live(snapshot, projections, sink)
        for projection in projections:
            create_for_folding(scratch, projection.tables)

    def live_generation(self, name: str) -> int | None:
        """Return a projection's current generation, or None if it is not built."""
        return self._live[name][0] if name in self._live else None

    def differences(
        self, incomplete: Collection[str] = (), equal: Collection[sa.Table] = ()
    ) -> Iterator[Difference]:
        """Compare all tables, except those of incomplete projections and those that are equal."""
        for name, (generation, tables) in self._live.items():
            if name not in incomplete:
                live = Side(self._snapshot, generation)
                from_log = Side(self._scratch, SCRATCH_GENERATION)
                for table in tables:
                    if table not in equal:
                        yield from differences(name, table, live, from_log)


def restore_cut(
    log: CutLog[Connection],
    snapshot: Connection,
    head: StoredHead,
    projections: Sequence[Tabled],
    scratch: Connection,
    inspect: Callable[[SnapshotPart], None] = lambda _: None,
) -> None:
    """Insert the rows of the snapshot at the cut of the log, if there is one, into the scratch
    tables. A snapshot that was changed is reported by `ArchiveCheck`.
    """
    with suppress(LogCorrupt):
        restore(
            unpacked(log.snapshot_parts(snapshot, head.cut_snapshot)),
            [(one, SCRATCH_GENERATION) for one in projections],
            lambda write: write(scratch),
            inspect,
        )


def _live(
    snapshot: Connection, projections: Sequence[Tabled], sink: FindingsSink
) -> dict[str, tuple[int, Sequence[sa.Table]]]:
    """Return each projection's current generation and tables; report those that are not built."""
    registered = registry.read(snapshot)
    registry.check_versions(registered, projections)
    live: dict[str, tuple[int, Sequence[sa.Table]]] = {}
    for projection in projections:
        found = registered.get(projection.name)
        if found is None or not found.is_built or found.version != projection.version:
            key = f"name={projection.name!r}"
            sink.add(Difference(projection.name, registry.registry.name, key, "not built", "built"))
        else:
            live[projection.name] = (found.generation, projection.tables)
    return live
