"""The archive of a log: its segments in one place, written whole and compared before they count."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from msgspec.structs import asdict

from adapters.archive.places import Place, place_of
from adapters.archive.segment_format import ROWS_PER_GROUP, SegmentContent
from adapters.archive.segment_reader import SegmentReader
from adapters.archive.segment_writer import Bodies, StateAtEnd, write_segment
from domain.language.errors import ArchiveUnavailable, SegmentUnusable
from domain.log.chain import GENESIS
from domain.log.segments import Segment, SegmentRows, name_prefix
from domain.log.stored_log import StoredRow

EXTENSION: Final = ".parquet"
_CHUNK_BYTES: Final = 1024 * 1024

Pages = Iterable[Sequence[StoredRow]]


class Archive:
    """The segments at a location: the path of a directory, or a URL of an object store."""

    def __init__(self, location: str | Path) -> None:
        """Opens nothing. Raises `FairlogError` if the location needs a package that is missing."""
        self.location = str(location)
        self._place: Place = place_of(self.location)

    def check_writable(self) -> None:
        """Raise `ArchiveUnavailable`, with what to do, if segments cannot be written here."""
        self._place.check_writable()

    def write(
        self,
        pages: Pages,
        bodies: Bodies,
        *,
        first: int,
        previous_hash: bytes = GENESIS,
        previous_recorded_at: int = 0,
        log_id: str | None = None,
        state: StateAtEnd = lambda: None,
    ) -> Segment:
        """Write rows and their bodies, both in log order, as a new segment.

        `first` is the position of the first row, and the two after it belong to the row before it;
        `log_id` is the earlier segments'; `state` returns the state of the system after the last
        row, and is called when all rows were taken. If the process ends before this returns, no
        segment is there, or a whole one that can be written again. Raises `LogCorrupt` for rows
        that do not continue the chain, and `ArchiveUnavailable`.
        """
        rows = SegmentRows(first, previous_hash, previous_recorded_at)
        with self._place.new_file() as new:
            hashed = _Hashed(new.file)
            with _as_unavailable(self.location):
                content = write_segment(hashed, pages, bodies, rows, log_id, state)
                digest = hashed.sha256()
                name = _name(content, digest)
                new.keep(name)
            return _segment(content, name, hashed.size, digest)

    def rewrite(self, segment: Segment, without: Collection[int]) -> Segment:
        """Write a segment anew without the bodies at some positions, beside the old file, and
        compare the two as they lie.

        `remove` the old one only when the log names the new one. Raises `SegmentUnusable` if either
        is not what it should be, and `ArchiveUnavailable`.
        """
        erased = frozenset(without)
        self.check_digest(segment)
        with self.open(segment) as reader:
            new = self.write(
                _pages(reader),
                _bodies_but(reader, erased),
                first=segment.first,
                previous_hash=bytes.fromhex(segment.previous_hash),
                log_id=segment.log_id,
                state=reader.state,
            )
            self.read_back(new, _pages(reader), _bodies_but(reader, erased))
        return new

    def remove(self, name: str) -> None:
        """Delete the file of a segment; if there is none, nothing happens."""
        self._place.remove(name)

    def read_back(self, segment: Segment, pages: Pages, bodies: Bodies) -> None:
        """Compare a segment's file, as it lies in its place, with rows and bodies from elsewhere.

        Raises `SegmentUnusable` at the first difference.
        """
        self.check_digest(segment)
        with self.open(segment) as reader:
            position = segment.first - 1
            for page in pages:
                if not page:
                    continue
                if reader.rows(position, len(page)) != list(page):
                    raise _differs(segment, f"one of the events {page[0][0]} to {page[-1][0]}")
                position = page[-1][0]
            if position != segment.last:
                raise _differs(segment, f"its end after event {position}")
            stored = reader.bodies_between(0, segment.last)
            for body in bodies:
                if next(stored, None) != body:
                    raise _differs(segment, f"the body of event {body[0]}")
            if next(stored, None) is not None:
                raise _differs(segment, "the number of bodies")

    def open(self, segment: Segment) -> SegmentReader:
        """Open a segment to read. Raises `SegmentUnusable` if its file is missing, cut short, no
        segment or not the one that is meant; its content is checked as it is read.
        """
        size = self._place.size(segment.name)
        if size != segment.size:
            raise SegmentUnusable(
                f"The segment {segment.name} has {size} bytes instead of {segment.size}: it was "
                "cut short or changed; bring it back from a copy."
            )
        reader = SegmentReader(self._place.open(segment.name), segment.name)
        found = _segment(reader.content, segment.name, segment.size, segment.sha256)
        if found != segment:
            reader.close()
            if found.log_id != segment.log_id:
                raise SegmentUnusable(
                    f"The segment {segment.name} belongs to another log; check --archive."
                )
            raise SegmentUnusable(
                f"The file {segment.name} is not the segment of events {segment.first} to "
                f"{segment.last} that the log names; bring it back from a copy."
            )
        return reader

    def check_digest(self, segment: Segment) -> None:
        """Read the whole file of a segment. Raises `SegmentUnusable` if a byte of it differs."""
        size, digest = self._digest(segment.name)
        if (size, digest) != (segment.size, segment.sha256):
            raise SegmentUnusable(
                f"The file {segment.name} has {size} bytes with the SHA-256 {digest}, and the log "
                f"says {segment.size} and {segment.sha256}: it was cut short or changed; bring it "
                "back from a copy."
            )

    def names(self) -> list[str]:
        """Return the names of the files here that may be segments. Raises `ArchiveUnavailable`."""
        return [name for name in self._place.names() if name.endswith(EXTENSION)]

    def described(self, name: str) -> Segment:
        """Return what a file says it is, by its last part alone; its digest is not computed and
        empty. Raises `SegmentUnusable`.
        """
        with SegmentReader(self._place.open(name), name) as reader:
            return _segment(reader.content, name, self._place.size(name), "")

    def stored(self, name: str) -> Segment:
        """Return what a file is. Reads all of it. Raises `SegmentUnusable` if it is no segment, or
        not what its name says.
        """
        size, digest = self._digest(name)
        with SegmentReader(self._place.open(name), name) as reader:
            content = reader.content
        if name != _name(content, digest):
            raise SegmentUnusable(
                f"The file {name} is not the one that had this name when it was written: it was "
                "changed, or put in another's place; bring it back from a copy."
            )
        return _segment(content, name, size, digest)

    def segments(self) -> tuple[list[Segment], list[SegmentUnusable]]:
        """Return the segments that the files here say they are, by position, and an error for
        each file that is none, or is not what its name says. Reads all files whole. Raises
        `ArchiveUnavailable`.
        """
        found: list[Segment] = []
        unusable: list[SegmentUnusable] = []
        for name in self._place.names():
            if not name.endswith(EXTENSION):
                continue
            try:
                found.append(self.stored(name))
            except SegmentUnusable as error:
                unusable.append(error)
        found.sort(key=lambda one: (one.first, one.last, one.bodies))
        return found, unusable

    def _digest(self, name: str) -> tuple[int, str]:
        hashed, size = sha256(), 0
        with self._place.open(name) as file, _as_unavailable(self.location, "read"):
            while chunk := file.read(_CHUNK_BYTES):
                hashed.update(chunk)
                size += len(chunk)
        return size, hashed.hexdigest()


class _Hashed:
    """A file that is written through, hashed and counted."""

    closed = False
    mode = "wb"

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self._file = file
        self._hash = sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leave the file open, which is its owner's."""

    def sha256(self) -> str:
        return self._hash.hexdigest()


def _pages(reader: SegmentReader) -> Iterator[Sequence[StoredRow]]:
    position = reader.content.first - 1
    while position < reader.content.last:
        page = reader.rows(position, ROWS_PER_GROUP)
        yield page
        position = page[-1][0]


def _bodies_but(reader: SegmentReader, erased: Collection[int]) -> Iterator[tuple[int, bytes]]:
    stored = reader.bodies_between(0, reader.content.last)
    return (one for one in stored if one[0] not in erased)


def _name(content: SegmentContent, digest: str) -> str:
    return f"{name_prefix(content.first, content.last)}{digest[:12]}{EXTENSION}"


def _segment(content: SegmentContent, name: str, size: int, digest: str) -> Segment:
    fields = asdict(content)
    del fields["format"], fields["state"]
    fields["roots"] = list(content.roots)
    return Segment(**fields, name=name, size=size, sha256=digest)


def _differs(segment: Segment, what: str) -> SegmentUnusable:
    return SegmentUnusable(
        f"The segment {segment.name} is not what was written to it: {what} differs. Nothing was "
        "deleted; run `fairlog verify`, and the command again."
    )


@contextmanager
def _as_unavailable(location: str, done: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveUnavailable(
            f"The archive at {location} cannot be {done}: {error.strerror or error}."
        ) from error
