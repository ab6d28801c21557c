"""Errors as messages between our own processes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from domain.language import errors
from domain.language.errors import FairlogError
from domain.language.events import RateLimitDecided


class SentError(Struct, frozen=True, omit_defaults=True, tag=True):
    """An error of the tree in `domain.language.errors`, with what it holds.

    Any other exception is only named, since it may hold anything; it arrives as a `RuntimeError`.
    """

    name: str | None  # of the class; None: not one of ours
    args: tuple[str, ...]
    decision: RateLimitDecided | None = None
    decided_at: datetime | None = None  # UTC
    # All other attributes: numbers, text, truth values, and lists of them.
    others: Mapping[str, Any] = {}

    @classmethod
    def of(cls, error: Exception) -> "SentError":
        name = type(error).__name__
        if getattr(errors, name, None) is not type(error) or not isinstance(error, FairlogError):
            return cls(None, (repr(error),))
        others = dict(error.__dict__)
        decision, decided_at = others.pop("decision", None), others.pop("decided_at", None)
        return cls(name, error.args, decision, decided_at, others)

    def restored(self) -> Exception:
        """Return the error as it was, not made anew by its constructor."""
        if self.name is None:
            return RuntimeError(*self.args)
        kind: type[FairlogError] = getattr(errors, self.name)
        error = kind.__new__(kind, *self.args)
        if self.decision is not None:
            error.__dict__["decision"] = self.decision
        if self.decided_at is not None:
            error.__dict__["decided_at"] = self.decided_at
        error.__dict__.update(self.others)
        return error
