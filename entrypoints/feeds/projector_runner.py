"""The thread that applies new events to the asynchronous projections.

It runs in the writer's process, which has no event loop: batches of this process wake it, and those
of others are found by a slow poll. All projections are written in one transaction, about every two
seconds, so that a row that changes often is written rarely, and a short job never. Of several
servers, one applies the events of all.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from adapters.supervision import Part, Supervisor, supervise
from domain.language.errors import FairlogError
from domain.language.events import Recorded
from projections.following.async_projector import EVENTS_PER_BATCH, AsyncProjector, step_all
from projections.following.checkpoints import NoCheckpoint, current_checkpoints

POLL_SECONDS: Final = 4.0  # between two reads of the head while this process writes nothing
CHECK_SECONDS: Final = 30.0  # between two checks of the checkpoints while nobody writes
# Between the first new event and the transaction that applies it, unless EVENTS_PER_BATCH wait.
PAUSE_SECONDS: Final = 2.0
LEAD_SECONDS: Final = 5.0  # that events are left to the process that has applied the latest ones
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
        self._enough = threading.Event()  # news that should not wait longer
        self._pending = 0  # events of this process since the latest step
        self._position = 0  # of the head when it was last read
        self._stepped_at = 0.0  # time.monotonic()
        # The checkpoints' positions when this process last read or moved them; None: not known.
        self._positions: Mapping[str, int] | None = None
        self._others_moved_at = -LEAD_SECONDS  # time.monotonic(): when that was noticed
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
        self._enough.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS_MAX)

    def published(self, events: Sequence[Recorded], *_: object) -> None:
        """Note new events for the projectors to apply. The writer calls this in its thread."""
        self._pending += len(events)
        self._news.set()
        if self._pending >= EVENTS_PER_BATCH:
            self._enough.set()

    def _run(self) -> None:
        loop = self._supervisor.part("following")
        parts = {
            one: self._supervisor.part(f"projection_{one.projection.name}", stuck_seconds=60.0)
            for one in self.projectors
        }
        rests_until = dict.fromkeys(self.projectors, 0.0)  # time.monotonic()
        self._news.set()  # what was written before the start
        is_failing = False
        while not self._stopping.is_set():
            if self._news.wait(_RETRY_SECONDS if is_failing else POLL_SECONDS):
                self._enough.wait(PAUSE_SECONDS)
            is_failing = any(part.is_failing for part in parts.values())
            if is_failing or self._is_step_due():
                self._stepped_at = now = time.monotonic()
                # Cleared before the read: events that are counted twice do no harm.
                self._pending = 0
                self._news.clear()
                self._enough.clear()
                if self._is_left_to_another() and not is_failing:
                    self._news.set()
                else:
                    ready = {one: part for one, part in parts.items() if now >= rests_until[one]}
                    for failed in self._step(ready):
                        rests_until[failed] = time.monotonic() + _RETRY_SECONDS
            with suppress(FairlogError):
                self._tidy_up()
            loop.works()

    def _is_step_due(self) -> bool:
        """Return True if events are new, or if the checkpoints were not checked for long."""
        if self._news.is_set() or time.monotonic() - self._stepped_at > CHECK_SECONDS:
            return True
        one, before = self.projectors[0], self._position
        with suppress(FairlogError), one.reading() as connection:
            self._position = one.log.position(connection)
            return self._position != before
        return True  # the step reports why the log cannot be read

    def _is_left_to_another(self) -> bool:
        """Return True if another process has moved a checkpoint lately.

        One process applies the events of all: its state in memory stays current. The others take
        over where it does not go on.
        """
        one, before = self.projectors[0], self._positions
        with suppress(FairlogError), one.reading() as connection:
            found = current_checkpoints(connection, [one.projection for one in self.projectors])
            self._positions = {name: at.position for name, at in found.items()}
            if before is not None and self._positions != before:
                self._others_moved_at = time.monotonic()
        return time.monotonic() - self._others_moved_at < LEAD_SECONDS

    def _step(self, parts: Mapping[AsyncProjector[Any], Part]) -> Sequence[AsyncProjector[Any]]:
        """Apply a batch to each projection; return those that failed.

        If they cannot be written together, each is written alone, so that one that fails does not
        keep the others from going on.
        """
        if not parts:
            return ()
        for part in parts.values():
            part.begins()
        try:
            step = step_all(list(parts))
            self._positions = step.positions if len(parts) == len(self.projectors) else None
            self._note_left(step.left)
        except Exception:  # noqa: BLE001 (the part that fails reports it)
            self._positions = None
            return [one for one, part in parts.items() if not self._step_alone(one, part)]
        for part in parts.values():
            part.works()
        return ()

    def _step_alone(self, projector: AsyncProjector[Any], part: Part) -> bool:
        """Apply a batch to one projection; return False if that failed."""
        part.begins()
        try:
            try:
                self._note_left(projector.step())
            except NoCheckpoint as error:
                if projector.prepare():  # unless another process was quicker
                    name = projector.projection.name
                    _log.warning("projection_begun_anew", projection=name, reason=str(error))
                    self._note_left(EVENTS_PER_BATCH)
        except Exception as error:  # noqa: BLE001 (readers see how far behind it is)
            part.fails(error)
            return False
        part.works()
        return True

    def _note_left(self, events: int) -> None:
        """Continue soon if events are left, and at once if there are many."""
        if events:
            self._news.set()
        if events >= EVENTS_PER_BATCH:
            self._enough.set()
