"""One thread a process that keeps the projections which follow the log.

It is woken by what this process writes; what others write it finds by a slow look.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from adapters.supervision import Part, Supervisor, supervise
from domain.language.errors import FairlogError
from domain.language.events import Recorded
from domain.log.stored_log import Leaf
from projections.following.async_projector import AsyncProjector, NoCheckpoint

POLL_SECONDS: Final = 2.0  # between two looks when this process writes nothing
# Before each batch: the writer has the disk and the lock meanwhile, and whoever was woken by the
# same news, like a waiting claim, has the processor.
PAUSE_SECONDS: Final = 0.2
_TROUBLE_SECONDS: Final = 2.0  # before a projection that could not be brought on is tried again
_STOP_SECONDS_MAX: Final = 5.0  # for what is being applied; usual: 0.2

_log = structlog.get_logger()


class ProjectorRunner:
    """Start it once, after the followers are prepared.

    Each projection is a part of its own: one that cannot go on, or that a newer release keeps, is
    tried again and again, and the others are brought on meanwhile.
    """

    def __init__(
        self,
        followers: Sequence[AsyncProjector[Any]],
        supervisor: Supervisor,
        tidy_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`tidy_up` is called between two rounds; what it raises of ours is left for the next."""
        self.followers = followers
        self._tidy_up = tidy_up
        self._supervisor = supervisor
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def of(self, name: str) -> AsyncProjector[Any]:
        return next(one for one in self.followers if one.projection.name == name)

    def start(self) -> None:
        loop = self._supervisor.part("following")
        self._thread = threading.Thread(
            target=supervise,
            args=(loop, self._run, self._stopping),
            name="fairlog-follower",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Return when what is being applied is done, unless that waits too long for a lock; the
        rest waits for the next start.
        """
        self._stopping.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS_MAX)

    def published(self, _: Sequence[Recorded], __: Sequence[Leaf]) -> None:
        """Subscribed to the writer; called in its thread."""
        self._news.set()

    def _run(self) -> None:
        loop = self._supervisor.part("following")
        parts = {
            one: self._supervisor.part(f"projection_{one.projection.name}", stuck_seconds=60.0)
            for one in self.followers
        }
        rests_until = dict.fromkeys(self.followers, 0.0)  # time.monotonic()
        while not self._stopping.is_set():
            self._news.wait(POLL_SECONDS)
            self._news.clear()
            self._stopping.wait(PAUSE_SECONDS)
            for follower, part in parts.items():
                if time.monotonic() >= rests_until[follower] and not self._step(follower, part):
                    rests_until[follower] = time.monotonic() + _TROUBLE_SECONDS
            with suppress(FairlogError):
                self._tidy_up()
            loop.works()

    def _step(self, follower: AsyncProjector[Any], part: Part) -> bool:
        """Returns False where it could not be brought on."""
        part.begins()
        try:
            try:
                has_more = follower.step()
            except NoCheckpoint as error:
                has_more = follower.prepare()  # unless another process was quicker
                if has_more:
                    name = follower.projection.name
                    _log.warning("projection_begun_anew", projection=name, reason=str(error))
        except Exception as error:  # noqa: BLE001 (whoever reads is shown how far behind it is)
            part.fails(error)
            return False
        part.works()
        if has_more:
            self._news.set()
        return True
