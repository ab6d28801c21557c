"""The thread that applies new events to the asynchronous projections.

It runs in the writer's process, which has no event loop: batches of this process wake it, and those
of others are found by a slow poll.
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

POLL_SECONDS: Final = 2.0  # while this process writes nothing
# Before each batch: meanwhile the writer has the disk and the lock, and what the same batch woke,
# like a waiting claim, has the processor.
PAUSE_SECONDS: Final = 0.2
_RETRY_SECONDS: Final = 2.0  # after an error of a projection
_STOP_SECONDS_MAX: Final = 5.0  # for the batch that is being applied; usually 0.2

_log = structlog.get_logger()


class ProjectorRunner:
    """Start it once, after the projectors are prepared.

    Each projection is a supervised part of its own: one that fails, or that a newer release keeps,
    is retried, and the others go on meanwhile.
    """

    def __init__(
        self,
        projectors: Sequence[AsyncProjector[Any]],
        supervisor: Supervisor,
        tidy_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`tidy_up` is called between two rounds; its `FairlogError`s are ignored."""
        self.projectors = projectors
        self._tidy_up = tidy_up
        self._supervisor = supervisor
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def of(self, name: str) -> AsyncProjector[Any]:
        return next(one for one in self.projectors if one.projection.name == name)

    def start(self) -> None:
        loop = self._supervisor.part("following")
        self._thread = threading.Thread(
            target=supervise,
            args=(loop, self._run, self._stopping),
            name="fairlog-projectors",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Return when the current batch is applied, at the latest after _STOP_SECONDS_MAX. The rest
        is applied after the next start.
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
            for one in self.projectors
        }
        rests_until = dict.fromkeys(self.projectors, 0.0)  # time.monotonic()
        while not self._stopping.is_set():
            self._news.wait(POLL_SECONDS)
            self._news.clear()
            self._stopping.wait(PAUSE_SECONDS)
            for projector, part in parts.items():
                if time.monotonic() >= rests_until[projector] and not self._step(projector, part):
                    rests_until[projector] = time.monotonic() + _RETRY_SECONDS
            with suppress(FairlogError):
                self._tidy_up()
            loop.works()

    def _step(self, projector: AsyncProjector[Any], part: Part) -> bool:
        """Apply a batch; return False if that failed."""
        part.begins()
        try:
            try:
                has_more = projector.step()
            except NoCheckpoint as error:
                has_more = projector.prepare()  # unless another process was quicker
                if has_more:
                    name = projector.projection.name
                    _log.warning("projection_begun_anew", projection=name, reason=str(error))
        except Exception as error:  # noqa: BLE001 (readers see how far behind it is)
            part.fails(error)
            return False
        part.works()
        if has_more:
            self._news.set()
        return True
