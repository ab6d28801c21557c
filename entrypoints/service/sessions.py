"""The login sessions of the dashboard, as a server process knows them.

A session is read from the database at most once in FRESH_SECONDS, so a logout through another
server holds here within a second. Whether its key is still valid is checked for each request.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.servers.dashboard_sessions import (
    NOTE_USE_SECONDS,
    DashboardSessions,
    Session,
    digest_of,
)
from domain.language.commands import Caller
from domain.language.errors import LogUnavailable
from domain.language.moments import to_micros
from entrypoints.service.key_ring import Access, KeyRing

FRESH_SECONDS: Final = 0.9
KNOWN_MAX: Final = 1_000  # sessions in memory; others are read again
UNKNOWN_PER_SECOND_MAX: Final = 50  # look-ups of tokens that have no session

_Query = Callable[[Connection], Session | None]


class _Known(Struct, frozen=True):
    session: Session
    read_at: float  # time.monotonic()


class Sessions:
    """One per process, used on its event loop. `read` runs a query in another thread."""

    def __init__(
        self,
        store: DashboardSessions,
        key_ring: KeyRing,
        read: Callable[[_Query], Awaitable[Session | None]],
    ) -> None:
        self._store = store
        self._key_ring = key_ring
        self._read = read
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._unknown = (float("-inf"), 0)  # start of a second, and look-ups in it

    async def start(self, caller: Caller) -> str:
        """Begin a session of a key, and return its token. Raises `LogUnavailable`."""
        return await asyncio.to_thread(self._store.start, caller)

    async def end(self, token: str) -> None:
        """End a session, and what it holds open. Raises `LogUnavailable`."""
        digest = digest_of(token)
        await asyncio.to_thread(self._store.end, digest)
        self._forget(digest)

    async def access_of(self, token: str, *, is_use: bool) -> Access | None:
        """Return the API key of a session; None if the session or its key has ended.

        `is_use`: the request puts off the end of an idle session. Raises `LogUnavailable`.
        """
        digest = digest_of(token)
        session = await self._session(digest)
        if session is None:
            return None
        key = self._key_ring.keys.valid(session.caller, self._key_ring.now)
        if key is None:
            return None
        if is_use and self._now() >= session.used_at + NOTE_USE_SECONDS * 1_000_000:
            await self._note_use(digest, session)
        return Access(key, session.caller, digest)

    async def refresh(self) -> None:
        """End what ended sessions hold open. Raises `LogUnavailable`."""
        for digest in self._key_ring.sessions_listening():
            if await self._session(digest) is None:
                self._key_ring.end_session(digest)

    async def _session(self, digest: bytes) -> Session | None:
        known = self._known.get(digest)
        if known is None or time.monotonic() - known.read_at >= FRESH_SECONDS:
            if known is None and not self._may_look_up():
                return None
            began = time.monotonic()
            found = await self._read(lambda connection: self._store.find(connection, digest))
            if found is None:
                self._forget(digest)
                return None
            known = self._known[digest] = _Known(found, began)
            self._unknown = (self._unknown[0], max(0, self._unknown[1] - 1))
            self._known.move_to_end(digest)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return known.session if self._now() < known.session.ends_at() else None

    def _may_look_up(self) -> bool:
        """Return False if too many tokens without a session were looked up in this second."""
        start, count = self._unknown
        now = time.monotonic()
        if now - start >= 1:
            start, count = now, 0
        self._unknown = (start, count + 1)
        return count < UNKNOWN_PER_SECOND_MAX

    async def _note_use(self, digest: bytes, session: Session) -> None:
        with suppress(LogUnavailable):  # the next request tries again
            await asyncio.to_thread(self._store.note_use, digest)
            self._known[digest] = _Known(replace(session, used_at=self._now()), time.monotonic())

    def _forget(self, digest: bytes) -> None:
        self._known.pop(digest, None)
        self._key_ring.end_session(digest)

    def _now(self) -> int:
        return to_micros(self._key_ring.now)
