"""What has to go on for as long as the process runs, by name: each loop of it, and how it goes.

No error ends a supervised loop: it is begun again after a pause that doubles up to a few seconds.
Meanwhile its part is failing, with the reason, for whoever asks: `/readyz`, `/metrics`, the
dashboard. The log has a line when a part begins to fail, when the reason changes, now and then
while it lasts, and when it works again.
"""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from adapters.database.faults import explained, is_for_everybody
from domain.language.errors import FairlogError

FIRST_PAUSE_SECONDS: Final = 0.2
PAUSE_SECONDS_MAX: Final = 5.0
HEALED_SECONDS: Final = 5.0
STUCK_SECONDS: Final = 10.0  # a round that has lasted so long counts as failing
_AGAIN_SECONDS: Final = 60.0  # between two lines about a part that goes on failing
_REASON_CHARACTERS_MAX: Final = 400

_log = structlog.get_logger()


class Trouble(Struct, frozen=True):
    """A part that does not work now."""

    part: str
    reason: str  # a sentence
    seconds: float  # since it began to fail


class Part:
    """One of them. Any thread may use it."""

    def __init__(self, name: str, stuck_seconds: float = STUCK_SECONDS) -> None:
        self.name = name
        self.failures = 0  # in all
        self._stuck_seconds = stuck_seconds
        self._reason: str | None = None  # why it fails; None: it works
        self._failing_since = 0.0  # time.monotonic()
        self._said_at = 0.0
        self._round_began: float | None = None

    @property
    def is_failing(self) -> bool:
        return self._reason is not None

    def begins(self) -> None:
        """A round has begun that should end soon; `works` or `fails` says that it has."""
        self._round_began = time.monotonic()

    def works(self) -> None:
        """It has just done what it is for, or has nothing to do."""
        self._round_began = None
        if self._reason is not None:
            seconds = time.monotonic() - self._failing_since
            self._reason = None
            _log.info("part_works_again", part=self.name, seconds=round(seconds, 1))

    def fails(self, error: BaseException | str) -> None:
        self._round_began = None
        self.failures += 1
        reason = error if isinstance(error, str) else reason_of(error)
        now = time.monotonic()
        is_new = self._reason is None
        if is_new:
            self._failing_since = now
        if is_new or reason != self._reason or now - self._said_at > _AGAIN_SECONDS:
            self._said_at = now
            foreseen = isinstance(error, str | FairlogError) or is_for_everybody(error)
            _log.log(
                _WARNING if foreseen else _ERROR,
                "part_failing",
                part=self.name,
                reason=reason,
                seconds=round(now - self._failing_since, 1),
                **({} if foreseen else {"exc_info": error}),
            )
        self._reason = reason

    def trouble(self) -> Trouble | None:
        now = time.monotonic()
        reason, began = self._reason, self._round_began
        if reason is not None:
            return Trouble(self.name, reason, now - self._failing_since)
        if began is not None and now - began > self._stuck_seconds:
            seconds = now - began
            return Trouble(self.name, f"It has waited {seconds:.0f} s for an answer.", seconds)
        return None


_WARNING: Final = 30
_ERROR: Final = 40


class Supervisor:
    """The parts of one process. One for each service."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._elsewhere: Sequence[Trouble] = ()
        self._others: list[Callable[[], Trouble | None]] = []
        self._guard = threading.Lock()

    def part(self, name: str, *, stuck_seconds: float = STUCK_SECONDS) -> Part:
        """The part of that name, made when it is asked for first."""
        with self._guard:
            return self._parts.setdefault(name, Part(name, stuck_seconds))

    def ask(self, other: Callable[[], Trouble | None]) -> None:
        """Have somebody else asked too, each time."""
        self._others.append(other)

    def hear(self, troubles: Sequence[Trouble]) -> None:
        """What another process of this server says of its parts, instead of what it said last."""
        self._elsewhere = troubles

    def troubles(self) -> list[Trouble]:
        """All parts that fail now, those of the other process among them."""
        with self._guard:
            parts = list(self._parts.values())
        found = [part.trouble() for part in parts] + [other() for other in self._others]
        return [one for one in found if one is not None] + list(self._elsewhere)

    def names(self) -> list[str]:
        with self._guard:
            return list(self._parts)


def supervise(
    part: Part,
    run: Callable[[], None],
    stopping: threading.Event,
    clean_up: Callable[[], None] = lambda: None,
) -> None:
    """Run a thread's loop until it returns; begin it anew, after a pause, whenever it raises."""
    pause = _Pause()
    while True:
        began = time.monotonic()
        try:
            return run()
        except BaseException as error:  # noqa: BLE001 (not even SystemExit ends a loop for good)
            _note(part, error)
        if stopping.is_set():
            return None
        seconds = pause.after(time.monotonic() - began)
        try:
            clean_up()
            stopping.wait(seconds)
        except BaseException as error:  # noqa: BLE001 (see above)
            _note(part, error)
            time.sleep(seconds)


def _note(part: Part, error: BaseException) -> None:
    """What has ended the loop may end this too: there is no memory, nor a thread to be had."""
    with suppress(BaseException):
        part.fails(error)


async def keep_running(
    part: Part, run: Callable[[], Awaitable[object]], *, heals: bool = False
) -> None:
    """`supervise` for a task: until it is cancelled, or `run` returns.

    `run` says itself when its part works; with `heals`, it works when `run` has gone on for
    HEALED_SECONDS.
    """
    pause = _Pause()
    while True:
        began = time.monotonic()
        healed = asyncio.get_running_loop().call_later(HEALED_SECONDS, part.works)
        if not heals:
            healed.cancel()
        try:
            await run()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _note(part, error)  # somebody cancelled what it waited for
        except BaseException as error:  # noqa: BLE001 (see `supervise`)
            _note(part, error)
        else:
            return
        finally:
            healed.cancel()
        await asyncio.sleep(pause.after(time.monotonic() - began))


async def repeat(part: Part, chore: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Do a chore again and again, until cancelled: a little irregularly, so that servers do not all
    do it at once, and less often while it fails.
    """

    async def run() -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 (spreads them)
            part.begins()
            await chore()
            part.works()

    await keep_running(part, run)


class _Pause:
    """Doubles with each failure that follows soon upon the one before."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    def after(self, seconds_run: float) -> float:
        """Seconds to wait, after a run of so many."""
        if seconds_run > 2 * PAUSE_SECONDS_MAX:
            self._seconds = FIRST_PAUSE_SECONDS
        pause = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)
        self._seconds = min(2 * self._seconds, PAUSE_SECONDS_MAX)
        return pause


def reason_of(error: BaseException) -> str:
    """A sentence for operators, clipped."""
    if isinstance(error, FairlogError):
        text = str(error)
    elif is_for_everybody(error):
        text = explained(error)
    else:
        text = f"{type(error).__name__}: {_text(error)}".partition("\n")[0]
    return text if len(text) <= _REASON_CHARACTERS_MAX else f"{text[: _REASON_CHARACTERS_MAX - 1]}…"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (an exception's own code may do anything)
        return "(its message cannot be read)"
