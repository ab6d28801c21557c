"""What a check of the log is made of: parts that each go through it by themselves.

Each sees one moment of the database, and checks all that it checks as of that moment. So they need
not be in one process, nor at the same place.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

from projections.verify.findings import Difference, Finding

DIFFERENCES_PER_PAGE: Final = 100


class Checked(NamedTuple):
    """How far a part has come, and what it found on the way there from the page before."""

    position: int
    found: Sequence[Finding | Difference]


class CheckPass(Protocol):
    """The pages come first, then the rest."""

    def pages(self) -> Iterator[Checked]:
        """Go through the log; the last page may lie behind its end."""

    def stopped_at(self) -> int | None:
        """From where on the log does not say how the projections have to be."""

    def differences(self) -> Iterator[Sequence[Difference]]:
        """Compare the projections, if it does."""


def in_pages(differences: Iterator[Difference]) -> Iterator[Sequence[Difference]]:
    while page := list(islice(differences, DIFFERENCES_PER_PAGE)):
        yield page


def earliest(*positions: int | None) -> int | None:
    """The first of those that there are."""
    return min((one for one in positions if one is not None), default=None)
