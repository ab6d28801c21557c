"""The log as it is stored, for those who check it and trust nothing of it."""

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from domain.language.events import Recorded
from domain.log.chain import leaf

C = TypeVar("C", contravariant=True)  # noqa: PLC0105 (a connection; short where it is read)
# Position, type, version, user_id, job_id, recorded_at in microseconds, data, hash. A plain tuple
# of anything: a verifier reads them all, and somebody may have put anything into a column.
StoredRow = tuple[Any, ...]

# What decoding raises for a text that somebody may have put there: no JSON of the kind, no UTF-8, a
# number out of range, or nested too deeply.
UNREADABLE: Final = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)


class Leaf(Struct, frozen=True, gc=False):
    """What stands for one row of the log, see `domain.log.chain`."""

    position: int
    hash: bytes


def leaf_of(row: StoredRow) -> Leaf:
    """Raises whatever a column makes it that holds what Fairlog never writes."""
    position, type_name, version, user_id, job_id, recorded_at, data, _ = row
    return Leaf(
        position, leaf(position, version, type_name.encode(), user_id, job_id, recorded_at, data)
    )


class StoredHead(Struct, frozen=True):
    """What the head row says of the end of the log."""

    position: int
    hash: bytes
    recorded_at: int  # UTC, microseconds
    registry_digest: int  # `log_head.epoch` less the position of the latest clock correction
    wrong: Sequence[str] = ()  # what else is not as a release like this one leaves it


class StoredLog(Protocol[C]):
    """A port: see `domain.decisions.ports`."""

    def head(self, connection: C) -> StoredHead | None:
        """None: there is no head row."""

    def rows(self, connection: C, after: int, limit: int) -> Sequence[StoredRow]:
        """Up to `limit` rows behind `after`, in order."""

    def events(self, connection: C, after: int, limit: int) -> Sequence[Recorded] | None:
        """The events of such rows; None where they have to be read as rows, one by one."""

    def body_digests(
        self, connection: C, after: int, up_to: int, limit: int
    ) -> Sequence[tuple[int, str, int]]:
        """Give (position, SHA-256 in hex, size) of up to `limit` bodies behind `after`, in order.

        None of them lies behind `up_to`.
        """
