"""A segment as a stored log, for the checks that read one page by page."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice

from sqlalchemy.engine import Connection

from adapters.archive.segment_reader import SegmentReader
from domain.language.events import Recorded
from domain.log.stored_log import StoredHead, StoredRow


class SegmentLog:
    """A `domain.log.stored_log.StoredLog` of one segment; connections are not used."""

    def __init__(self, reader: SegmentReader) -> None:
        self._reader = reader

    def head(self, _: Connection) -> StoredHead | None:
        """Return the last event of the segment as the head."""
        content = self._reader.content
        last_hash = bytes.fromhex(content.last_hash)
        return StoredHead(content.last, last_hash, content.last_recorded_at, 0)

    def rows(self, _: Connection, after: int, limit: int) -> Sequence[StoredRow]:
        return self._reader.rows(after, limit)

    def events(self, _: Connection, after: int, limit: int) -> Sequence[Recorded] | None:
        """Return None: what is checked is read row by row."""
        del after, limit
        return None

    def body_digests(
        self, _: Connection, after: int, up_to: int, limit: int
    ) -> list[tuple[int, str, int]]:
        return list(islice(self._digests(after, up_to), limit))

    def _digests(self, after: int, up_to: int) -> Iterator[tuple[int, str, int]]:
        for position, body in self._reader.bodies_between(after, up_to):
            yield position, sha256(body).hexdigest(), len(body)
