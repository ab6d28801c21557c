"""One thread a process that keeps the projections which follow the log.

It is woken by what this process writes; what others write it finds by a slow look.
"""

import threading
from collections.abc import Sequence
from typing import Any, Final

import structlog
from sqlalchemy.engine import Connection

from domain.errors import FairlogError, LogTooNew, LogUnavailable
from domain.events import Recorded
from domain.stored_log import Leaf
from projections.follower import E, Follower, Read

POLL_SECONDS: Final = 2.0  # between two looks when this process writes nothing
# Before each batch: the writer has the disk and the lock meanwhile, and whoever was woken by the
# same news, like a waiting claim, has the processor.
PAUSE_SECONDS: Final = 0.2
_TROUBLE_SECONDS: Final = 5.0
_EVENTS_KEPT: Final = 20_000  # some 20 MB

_Ring = list[E | None]  # by position

_log = structlog.get_logger()


class RecentEvents:
    """What this process wrote lately, so that who follows the log need not read and decode it."""

    def __init__(self) -> None:
        self._events: _Ring[Recorded] = [None] * _EVENTS_KEPT
        self._leaves: _Ring[Leaf] = [None] * _EVENTS_KEPT

    def published(self, recorded: Sequence[Recorded], leaves: Sequence[Leaf]) -> None:
        """Subscribed to the writer; called in its thread, while another one reads."""
        for one in recorded:
            self._events[one.position % _EVENTS_KEPT] = one
        for leaf in leaves:
            self._leaves[leaf.position % _EVENTS_KEPT] = leaf

    def events_or(self, read: Read[Recorded]) -> Read[Recorded]:
        """What is not here is read. Other processes write too: there are gaps."""
        return _here_or(self._events, read)

    def leaves_or(self, read: Read[Leaf]) -> Read[Leaf]:
        return _here_or(self._leaves, read)


def _here_or(ring: "_Ring[E]", read: "Read[E]") -> "Read[E]":
    def read_here(connection: Connection, after: int, limit: int) -> Sequence[E]:
        found: list[E] = []
        for position in range(after + 1, after + 1 + limit):
            one = ring[position % _EVENTS_KEPT]
            if one is None or one.position != position:
                break
            found.append(one)
        return found or read(connection, after, limit)

    return read_here


class Following:
    """Start it once, after the followers are prepared."""

    def __init__(self, followers: Sequence[Follower[Any]]) -> None:
        self.followers = followers
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def of(self, name: str) -> Follower[Any]:
        return next(one for one in self.followers if one.projection.name == name)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="fairlog-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when what is being applied is done; the rest waits for the next start."""
        self._stopping.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    def published(self, _: Sequence[Recorded], __: Sequence[Leaf]) -> None:
        """Subscribed to the writer; called in its thread."""
        self._news.set()

    def _run(self) -> None:
        active = list(self.followers)
        while active and not self._stopping.is_set():
            self._news.wait(POLL_SECONDS)
            self._news.clear()
            self._stopping.wait(PAUSE_SECONDS)
            for follower in active[:]:
                if not self._step(follower):
                    active.remove(follower)

    def _step(self, follower: Follower[Any]) -> bool:
        """Whether it can go on at all."""
        name = follower.projection.name
        try:
            if follower.step():
                self._news.set()
        except LogTooNew as error:
            _log.warning("projection_too_new", projection=name, reason=str(error))
            return False
        except LogUnavailable:
            self._stopping.wait(POLL_SECONDS)
        except FairlogError as error:
            _log.warning("projection_stands_still", projection=name, reason=str(error))
            self._stopping.wait(_TROUBLE_SECONDS)
        except Exception as error:  # noqa: BLE001 (whoever reads is shown how far behind it is)
            _log.error("projection_stands_still", projection=name, exc_info=error)
            self._stopping.wait(_TROUBLE_SECONDS)
        return True
