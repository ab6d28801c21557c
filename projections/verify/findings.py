"""Findings of a verification, and the passes that make them.

Each pass reads the whole log and sees one snapshot of the database, so that passes can run in
different processes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

DIFFERENCES_PER_PAGE: Final = 100


class Finding(Struct, frozen=True, tag=True):
    """The log is not as it was written, or could not have been written by the rules."""

    position: int | None  # None: about no single event
    what: str

    def __str__(self) -> str:
        return self.what if self.position is None else f"event {self.position}: {self.what}"


class Difference(Struct, frozen=True, tag=True):
    """A row of a projection differs from what the log gives; only columns that differ are shown."""

    projection: str
    table: str
    key: str  # the key columns without the generation
    live: str  # the live row; "no row" if it is missing
    from_log: str  # the expected row; "no row" if there should be none

    def __str__(self) -> str:
        return (
            f"projection {self.projection}, {self.table} {self.key}: "
            f"live {self.live}, from the log {self.from_log}"
        )


Report = Callable[[Finding | Difference], None]


class FindingsSink:
    """Reports findings at once and counts them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.findings = 0
        self.differing: dict[str, None] = {}  # names of projections, in the order of reports

    def about(self, position: int | None, what: str) -> None:
        """Report a finding about the event at a position; None: about no single event."""
        self.add(Finding(position, what))

    def add_all(self, found: Sequence[Finding | Difference]) -> None:
        """Report findings in their order."""
        for one in found:
            self.add(one)

    def add(self, one: Finding | Difference) -> None:
        """Report a finding."""
        if isinstance(one, Difference):
            self.differing[one.projection] = None
        else:
            self.findings += 1
        self._report(one)


class Checked(NamedTuple):
    """The position that a pass has reached, and its findings since the page before."""

    position: int
    found: Sequence[Finding | Difference]


class CheckPass(Protocol):
    """A pass over the log. All `pages` have to be read before the other methods are called."""

    def pages(self) -> Iterator[Checked]:
        """Check the log; the last page may be beyond the position of the head."""

    def stopped_at(self) -> int | None:
        """Return the first position that cannot be folded, if there is one."""

    def differences(self) -> Iterator[Sequence[Difference]]:
        """Compare the projections; not to be called if a position cannot be folded."""


def in_pages(differences: Iterator[Difference]) -> Iterator[Sequence[Difference]]:
    """Group differences into pages of at most `DIFFERENCES_PER_PAGE`."""
    while page := list(islice(differences, DIFFERENCES_PER_PAGE)):
        yield page


def earliest(*positions: int | None) -> int | None:
    """Return the lowest position that is not None, if there is one."""
    return min((one for one in positions if one is not None), default=None)
