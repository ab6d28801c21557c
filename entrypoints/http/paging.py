"""Validation of page sizes, cursors and positions."""

from typing import Annotated, Final

from msgspec import Meta

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX

PAGE_MAX: Final = 1000  # entries

PageLimit = Annotated[int, Meta(ge=1, le=PAGE_MAX)]


def limit_of(limit: int) -> int:
    """Return the maximum number of entries of a page, 1 to PAGE_MAX. Raises `InvalidInput`."""
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidInput(f"limit must be a whole number from 1 to {PAGE_MAX}.")
    return limit


def page_cursor(cursor: str | None) -> int | None:
    """Parse the `next` of the previous page; None for the first page. Raises `InvalidInput`."""
    if cursor is None:
        return None
    try:
        return validation.whole_number(cursor, "cursor", 0, POSITION_MAX)
    except InvalidInput:
        raise InvalidInput(
            "cursor must be the `next` of the previous page; leave it out for the first page."
        ) from None


def position_of(after: int) -> int:
    """Return a position after which to read; 0 reads from the start. Raises `InvalidInput`."""
    if not 0 <= after <= POSITION_MAX:
        raise InvalidInput(f"after must be a position, a whole number from 0 to {POSITION_MAX}.")
    return after
