"""The endpoints of callbacks, the fold of their events, and the rules of commands about them.

All are always in memory, so that the end of a job needs no row to find those that are told of it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from domain.language.callbacks import CALLBACKS_MAX, OF_SUBMISSIONS
from domain.language.commands import (
    CallbackCommand,
    DeleteCallback,
    RotateCallbackSecret,
    SetCallback,
)
from domain.language.errors import TooManyCallbacks, UnknownCallback
from domain.language.events import (
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    Event,
    Recorded,
)
from domain.language.identifiers import CallbackName, Kind, UserId
from domain.language.moments import later
from domain.log.folds import Folded, FoldMethods


class Callback(Struct, frozen=True, omit_defaults=True):
    """An endpoint, or what is left of one: the version of its secret. All times are UTC."""

    name: CallbackName
    url: str | None = None  # None: it is deleted, or stands for the URLs of submissions
    kinds: tuple[Kind, ...] = ()  # whose ends it is told; empty: any
    users: tuple[UserId, ...] = ()  # likewise
    created_at: datetime | None = None
    changed_at: datetime | None = None
    version: int = 1  # of the secret
    earlier_until: datetime | None = None  # exclusive; the secret before signs, too, until then

    def is_told_of(self, user_id: UserId, kind: Kind) -> bool:
        """Return True if the end of a job of this user and kind is sent to it."""
        return (
            self.url is not None
            and (not self.kinds or kind in self.kinds)
            and (not self.users or user_id in self.users)
        )

    def versions(self, now: datetime) -> tuple[int, ...]:
        """Return the versions of the secret that sign now, the newest first."""
        if self.earlier_until is not None and now < self.earlier_until:
            return self.version, self.version - 1
        return (self.version,)


class Callbacks(Folded):
    """All endpoints."""

    def __init__(self) -> None:
        self.is_read = True  # all that are stored are in memory
        self.rows: dict[CallbackName, Callback] = {}
        self.endpoints: tuple[Callback, ...] = ()  # those that are told of ends, by name
        self.changed: set[CallbackName] = set()

    def know(self, stored: Iterable[Callback]) -> None:
        """Take all that are stored, except where a later one is known."""
        for callback in stored:
            self.rows.setdefault(callback.name, callback)
        self.is_read = True
        self._list_endpoints()

    def _set(self, recorded: Recorded, event: CallbackSet) -> None:
        at = recorded.recorded_at
        before = self.rows.get(event.name) or Callback(event.name)
        self._put(
            replace(
                before,
                url=event.url,
                kinds=event.kinds,
                users=event.users,
                created_at=at if before.url is None else before.created_at,
                changed_at=at,
            )
        )

    def _deleted(self, _: Recorded, event: CallbackDeleted) -> None:
        before = self.rows.get(event.name) or Callback(event.name)
        # Made again, it must not have a secret that it had before.
        left = Callback(event.name, version=before.version, earlier_until=before.earlier_until)
        self._put(left)

    def _rotated(self, _: Recorded, event: CallbackSecretRotated) -> None:
        before = self.rows.get(event.name) or Callback(event.name)
        self._put(replace(before, version=event.version, earlier_until=event.earlier_until))

    def _put(self, callback: Callback) -> None:
        self.rows[callback.name] = callback
        self.changed.add(callback.name)
        self._list_endpoints()

    def _list_endpoints(self) -> None:
        """Sort them once a change, and not once for each end of a job."""
        self.endpoints = tuple(self.rows[name] for name in sorted(self.rows) if self.rows[name].url)

    FOLDS: ClassVar[FoldMethods] = {
        CallbackSet: _set,
        CallbackDeleted: _deleted,
        CallbackSecretRotated: _rotated,
    }


def decide_callback(callbacks: Callbacks, command: CallbackCommand, now: datetime) -> Event | None:
    """Return the event that follows; None if nothing changes. Raises a `Refusal`."""
    before = callbacks.rows.get(command.name)
    is_set = before is not None and before.url is not None
    match command:
        case SetCallback(name=name, url=url, kinds=kinds, users=users):
            if not is_set and len(callbacks.endpoints) >= CALLBACKS_MAX:
                raise TooManyCallbacks(CALLBACKS_MAX)
            if before is not None and (before.url, before.kinds, before.users) == (
                url,
                kinds,
                users,
            ):
                return None
            return CallbackSet(name=name, url=url, kinds=kinds, users=users)
        case DeleteCallback(name=name):
            if not is_set:
                raise UnknownCallback(name)
            return CallbackDeleted(name=name)
        case RotateCallbackSecret(name=name, overlap_seconds=overlap):
            if not is_set and name != OF_SUBMISSIONS:
                raise UnknownCallback(name)
            return CallbackSecretRotated(
                name=name,
                version=1 + (1 if before is None else before.version),
                earlier_until=later(now, overlap),
            )
