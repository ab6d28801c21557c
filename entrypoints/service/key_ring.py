"""The API keys that a server process knows: who a request's secret belongs to, and for how long.

While requests come, the keys are read from the log at most REFRESH_SECONDS apart, so that checking
one costs no statement. If they cannot be read, no key is accepted after STALE_SECONDS: it could
have been revoked meanwhile; only metrics go on. Writes are checked once more, under the head lock.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Final

from msgspec import Struct

from adapters.log.key_events import KEY_EVENT_NAMES
from adapters.writer.write_path import BatchWritten
from domain.access.keys import ApiKey, ApiKeys
from domain.access.secrets import id_of
from domain.language.commands import Caller
from domain.language.errors import LogUnavailable, fresh_copy
from domain.language.moments import UNIX_EPOCH, later

REFRESH_SECONDS: Final = 0.3  # between two reads of the log's version
STALE_SECONDS: Final = 0.9  # after the latest read: a request reads again before it goes on


class Access(Struct, frozen=True):
    """The API key of a request."""

    key: ApiKey
    caller: Caller
    session: bytes | None = None  # the digest of a session's token, if it came with one


class KeysRead(Struct, frozen=True):
    """The keys at a moment."""

    keys: ApiKeys
    version: int  # of the log's head row, which each change of a key changes
    now: datetime  # UTC, the log's time


ReadKeys = Callable[[KeysRead], Awaitable[KeysRead]]  # from those known before


class KeyRing:
    """One per process, used on its event loop; only `batch_written` may be called elsewhere.

    `requires_keys`: every request needs a key, even if there is none yet.
    """

    def __init__(self, read: ReadKeys, *, requires_keys: bool) -> None:
        self._read = read
        self._requires_keys = requires_keys
        self._known = KeysRead(ApiKeys(), -1, UNIX_EPOCH)
        self._read_at = float("-inf")  # time.monotonic() before the latest read
        self._asked_at = float("-inf")  # time.monotonic() of the latest request
        self._reading: asyncio.Task[None] | None = None
        self._listening: dict[asyncio.Event, Access] = {}
        self._is_changed = False  # by this process's writer

    @property
    def are_required(self) -> bool:
        """True if every request needs a key: by the settings, or because one was created."""
        return self._requires_keys or bool(self._known.keys.by_name)

    @property
    def keys(self) -> ApiKeys:
        """The keys as they were read last."""
        return self._known.keys

    @property
    def now(self) -> datetime:
        """The log's time, estimated from the latest read."""
        return later(self._known.now, max(0.0, time.monotonic() - self._read_at))

    async def require_current(self) -> None:
        """Read the keys unless that was done lately. Raises `LogUnavailable`."""
        self._asked_at = time.monotonic()
        if self._is_changed or self._is_older_than(STALE_SECONDS):
            await self.refresh()

    async def try_to_be_current(self) -> None:
        """Read the keys as `require_current` does, or go on with those known if that fails.

        For metrics, which matter most while the database is away. Raises `LogUnavailable` if the
        keys have never been read.
        """
        try:
            await asyncio.wait_for(self.require_current(), STALE_SECONDS)
        except (LogUnavailable, TimeoutError) as error:
            if self._known.version == -1:
                raise LogUnavailable("The API keys cannot be read.") from error

    async def keep_current(self) -> None:
        """Read the keys while requests come, and for those that are held open. Raises
        `LogUnavailable`.
        """
        is_asked = time.monotonic() - self._asked_at < STALE_SECONDS
        if is_asked or (self._listening and self._is_older_than(STALE_SECONDS)):
            await self.refresh()

    async def refresh(self) -> None:
        """Read the keys, and end what ended keys hold open. Raises `LogUnavailable`.

        The read begins after the call, so that it finds what was committed before. Callers who come
        while another read is under way share the next one.
        """
        under_way = self._reading
        if under_way is not None and not under_way.done():
            await asyncio.wait([under_way])
            failed = None if under_way.cancelled() else under_way.exception()
            if isinstance(failed, LogUnavailable):  # the next one would fail as late again
                raise fresh_copy(failed)
        if self._reading is under_way:
            self._reading = asyncio.create_task(self._refresh(), name="keys")
        reading = self._reading
        assert reading is not None, "it was just begun"
        await asyncio.shield(reading)

    async def recognize(self, secret: str, *, may_read: bool = True) -> Access | None:
        """Return the key of a secret; None if it has none, or one that is not valid now.

        A well-formed secret that is not known may be new: with `may_read` the keys are read again.
        """
        found = self._known.keys.recognize(secret, self.now)
        if found is None and may_read and self._may_be_new(secret):
            await self.refresh()
            found = self._known.keys.recognize(secret, self.now)
        return None if found is None else Access(*found)

    def holds(self, access: Access | None) -> bool:
        """Return True if the key of a request, or its absence, is still accepted."""
        if access is None:
            return not self.are_required
        return self._known.keys.valid(access.caller, self.now) is not None

    @contextlib.contextmanager
    def ending(self, access: Access | None, ended: asyncio.Event) -> Iterator[None]:
        """Set the event during the block when the key is no longer valid."""
        if access is None:
            yield
            return
        self._listening[ended] = access
        try:
            yield
        finally:
            self._listening.pop(ended, None)

    def sessions_listening(self) -> set[bytes]:
        """Return the sessions that hold something open."""
        return {one.session for one in self._listening.values() if one.session is not None}

    def end_session(self, session: bytes) -> None:
        """End what a session holds open."""
        for ended, access in self._listening.items():
            if access.session == session:
                ended.set()

    def batch_written(self, batch: BatchWritten) -> None:
        """Have the keys read again after a change by this process. Called in the writer's thread,
        before the caller has the answer.
        """
        if batch.has_any(KEY_EVENT_NAMES):
            self._is_changed = True

    def _is_older_than(self, seconds: float) -> bool:
        return self._known.version == -1 or time.monotonic() - self._read_at > seconds

    def _may_be_new(self, secret: str) -> bool:
        secret_id = id_of(secret)
        return secret_id is not None and secret_id not in self._known.keys.names

    async def _refresh(self) -> None:
        self._is_changed = False
        began = time.monotonic()
        self._known = await self._read(self._known)
        self._read_at = began
        for ended, access in list(self._listening.items()):
            if not self.holds(access):
                ended.set()
