"""Prover for those who do not have the log: heads to keep elsewhere, and proofs against them.

Every answer is checked before it is given: a row that is not what the tree was made of is an error
here, not at the third party's.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log.archived import archived_tile
from adapters.log.audit_log import EventFilter, StoredEvent
from domain.language.errors import EventsArchived, InvalidInput, LogCorrupt
from domain.language.identifiers import JobId
from domain.language.moments import to_micros
from domain.log.chain import GENESIS, leaf
from domain.log.merkle import Subtree, consistency_proof, inclusion_proof, is_included, root
from entrypoints.service.fairlog import Fairlog
from projections.following.async_projector import AsyncProjector
from projections.following.merkle import MerkleProjection, TileTree

EVENTS_PER_PROOF_MAX: Final = 10_000
_FORMAT: Final = "fairlog-proof-1"


class ProvenHead(Struct, frozen=True, kw_only=True):
    """The head of a log, to be kept elsewhere: no event up to it can then change unnoticed."""

    position: int
    hash: str  # hex; of the chain up to the position
    root: str  # hex; of the Merkle tree over the leaves up to the position


class ProvenEvent(Struct, frozen=True, kw_only=True):
    """A row of the log as it is hashed, see `domain.log.chain`."""

    position: int
    version: int
    type: str
    user_id: str | None
    job_id: int | None
    recorded_at: int  # UTC, microseconds
    data: str  # the JSON of the event, byte for byte
    path: Sequence[str]  # hex, from below; see `domain.log.merkle.is_included`


class InclusionProof(Struct, frozen=True, kw_only=True):
    """A proof that the log of a head has some events."""

    format: str = _FORMAT
    head: ProvenHead
    events: Sequence[ProvenEvent]


class ConsistencyProof(Struct, frozen=True, kw_only=True):
    """A proof that the log of the second head begins with that of the first."""

    format: str = _FORMAT
    first: ProvenHead
    second: ProvenHead
    path: Sequence[str]  # hex


class Prover:
    """A maker of heads and proofs, as of the position of the Merkle tree; see `catch_up`."""

    def __init__(self, fairlog: Fairlog) -> None:
        self._fairlog = fairlog
        self._log = fairlog.past
        self._projector: AsyncProjector[Any] = next(
            one
            for one in fairlog.projector_runner.projectors
            if isinstance(one.projection, MerkleProjection)
        )

    def catch_up(self) -> None:
        """Bring the tree up to the current head of the log. Raises `LogUnavailable`."""
        end = self._fairlog.read_now(self._fairlog.log.position)
        while self._fairlog.read_now(_size) < end:
            self._projector.step()

    def head(self, connection: Connection, position: int | None = None) -> ProvenHead:
        """Return the head at a position, by default the tree's.

        Raises `InvalidInput` for a position beyond the tree.
        """
        end = _size(connection)
        at = end if position is None else position
        if at > end:
            raise InvalidInput(f"The log ends at position {end}.")
        chain = GENESIS if at == 0 else self._log.hash_at(connection, at)
        if chain is None and at < (cut := self._log.cut(connection).position):
            raise EventsArchived(cut)
        if chain is None:
            raise LogCorrupt(f"The log has no event at position {at}.")
        return ProvenHead(
            position=at, hash=chain.hex(), root=root(self._tree(connection), at).hex()
        )

    def prove_job(
        self, connection: Connection, job_id: JobId, position: int | None
    ) -> InclusionProof:
        """Prove all events of a job up to a position. Raises `InvalidInput` if there are none."""
        return self._prove(
            connection, EventFilter(job_id=job_id), 0, EVENTS_PER_PROOF_MAX, position
        )

    def prove_event(
        self, connection: Connection, event: int, position: int | None
    ) -> InclusionProof:
        """Prove the event at position `event`. Raises `InvalidInput` if there is none."""
        return self._prove(connection, EventFilter(), event - 1, 1, position)

    def prove_growth(
        self, connection: Connection, first: int, position: int | None
    ) -> ConsistencyProof:
        """Prove that the log at a position begins with the log at the earlier position `first`.

        Raises `InvalidInput` if `first` is not earlier.
        """
        second = self.head(connection, position)
        if not 0 < first <= second.position:
            raise InvalidInput(f"The earlier position must be from 1 to {second.position}.")
        path = consistency_proof(self._tree(connection), first, second.position)
        return ConsistencyProof(
            first=self.head(connection, first), second=second, path=[one.hex() for one in path]
        )

    def _tree(self, connection: Connection) -> Subtree:
        return self._log.tree(TileTree(connection, archived_tile))

    def _prove(
        self,
        connection: Connection,
        wanted: EventFilter,
        after: int,
        most: int,
        position: int | None,
    ) -> InclusionProof:
        head = self.head(connection, position)
        tree = self._tree(connection)
        found = self._log.find(connection, wanted, after, most)
        events = [_proven(tree, event, head) for event in found if event.position <= head.position]
        cut = self._log.cut(connection).position
        if (wanted.job_id or after + 1) <= cut:
            raise EventsArchived(cut)
        if not events:
            raise InvalidInput(f"There is no such event up to position {head.position}.")
        return InclusionProof(head=head, events=events)


def _size(connection: Connection) -> int:
    return TileTree(connection, archived_tile).size()


def _proven(tree: Subtree, event: StoredEvent, head: ProvenHead) -> ProvenEvent:
    user_id = None if event.user_id is None else event.user_id.encode()
    recorded_at = to_micros(event.recorded_at)
    hashed = leaf(
        event.position,
        event.version,
        event.type.encode(),
        user_id,
        event.job_id,
        recorded_at,
        event.data,
    )
    path = inclusion_proof(tree, event.position - 1, head.position)
    if not is_included(hashed, event.position - 1, head.position, path, bytes.fromhex(head.root)):
        raise LogCorrupt(
            f"Event {event.position} has changed since it was added to the Merkle tree; run "
            "`fairlog verify` to find what else has."
        )
    return ProvenEvent(
        position=event.position,
        version=event.version,
        type=event.type,
        user_id=event.user_id,
        job_id=event.job_id,
        recorded_at=recorded_at,
        data=event.data.decode(),
        path=[one.hex() for one in path],
    )
