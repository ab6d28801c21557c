"""Cursors and page sizes."""

from typing import Annotated, Final

from msgspec import Meta

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX

PAGE_MAX: Final = 1000

PageLimit = Annotated[int, Meta(ge=1, le=PAGE_MAX)]


def limit_of(limit: int) -> int:
    """How many entries a page has. Raises `InvalidInput`."""
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidInput(f"limit is a whole number from 1 to {PAGE_MAX}.")
    return limit


def page_cursor(cursor: str | None) -> int | None:
    """The `next` of the page before. Raises `InvalidInput`."""
    if cursor is None:
        return None
    try:
        return validation.whole_number(cursor, "cursor", 0, POSITION_MAX)
    except InvalidInput:
        raise InvalidInput(
            "cursor is the `next` of the page before; leave it out for the first."
        ) from None


def position_of(after: int) -> int:
    """A position to read behind; 0 is the beginning. Raises `InvalidInput`."""
    if not 0 <= after <= POSITION_MAX:
        raise InvalidInput(f"after is a position: a whole number from 0 to {POSITION_MAX}.")
    return after
