"""Supervision of the loops that must run as long as the process does, and their health by name.

No error ends a supervised loop: it is started again after a pause that doubles up to 5 s.
Meanwhile its part is failing, and `/readyz`, `/metrics` and the dashboard show the reason. A line
is logged when a part begins to fail, when the reason changes, once a minute while it lasts, and
when the part works again.
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
STUCK_SECONDS: Final = 10.0  # a round that takes longer counts as failing
_AGAIN_SECONDS: Final = 60.0  # between two lines about a part that still fails
_REASON_CHARACTERS_MAX: Final = 400

_log = structlog.get_logger()


class Trouble(Struct, frozen=True):
    """A part that does not work."""

    part: str
    reason: str  # a sentence
    seconds: float  # since it began to fail


class Part:
    """A supervised loop, or another thing that can fail. Any thread may use it."""

    def __init__(self, name: str, stuck_seconds: float = STUCK_SECONDS) -> None:
        self.name = name
        self.failures = 0  # since the start
        self._stuck_seconds = stuck_seconds
        self._reason: str | None = None  # why it fails; None: it works
        self._failing_since = 0.0  # time.monotonic()
        self._logged_at = 0.0
        self._round_began: float | None = None

    @property
    def is_failing(self) -> bool:
        return self._reason is not None

    def begins(self) -> None:
        """Note the start of a round that should end soon, by `works` or `fails`."""
        self._round_began = time.monotonic()

    def works(self) -> None:
        """Note that a round has succeeded, or that there is nothing to do."""
        self._round_began = None
        if self._reason is not None:
            seconds = time.monotonic() - self._failing_since
            self._reason = None
            _log.info("part_works_again", part=self.name, seconds=round(seconds, 1))

    def fails(self, error: BaseException | str) -> None:
        """Note that a round has failed. A text is a sentence for operators."""
        self._round_began = None
        self.failures += 1
        reason = error if isinstance(error, str) else reason_of(error)
        now = time.monotonic()
        is_new = self._reason is None
        if is_new:
            self._failing_since = now
        if is_new or reason != self._reason or now - self._logged_at > _AGAIN_SECONDS:
            self._logged_at = now
            is_known = isinstance(error, str | FairlogError) or is_for_everybody(error)
            _log.log(
                _WARNING if is_known else _ERROR,
                "part_failing",
                part=self.name,
                reason=reason,
                seconds=round(now - self._failing_since, 1),
                **({} if is_known else {"exc_info": error}),
            )
        self._reason = reason

    def trouble(self) -> Trouble | None:
        """Return why the part does not work; None if it does."""
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
    """The parts of one process, and the troubles that others report to it."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._reported: Sequence[Trouble] = ()
        self._probes: list[Callable[[], Trouble | None]] = []
        self._guard = threading.Lock()

    def part(self, name: str, *, stuck_seconds: float = STUCK_SECONDS) -> Part:
        """Return the part of that name, which the first call creates."""
        with self._guard:
            return self._parts.setdefault(name, Part(name, stuck_seconds))

    def add_probe(self, probe: Callable[[], Trouble | None]) -> None:
        """Include what `probe` returns in each call of `troubles`."""
        self._probes.append(probe)

    def set_reported(self, troubles: Sequence[Trouble]) -> None:
        """Replace the troubles that this server's other process reported last."""
        self._reported = troubles

    def troubles(self) -> list[Trouble]:
        """Return all parts that fail now, those of the other process included."""
        with self._guard:
            parts = list(self._parts.values())
        found = [part.trouble() for part in parts] + [probe() for probe in self._probes]
        return [one for one in found if one is not None] + list(self._reported)

    def names(self) -> list[str]:
        with self._guard:
            return list(self._parts)


def supervise(
    part: Part,
    run: Callable[[], None],
    stopping: threading.Event,
    clean_up: Callable[[], None] = lambda: None,
) -> None:
    """Run a thread's loop until it returns; start it again, after a pause, whenever it raises."""
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
    """Note the failure, if possible: what ended the loop, like a lack of memory, may end this."""
    with suppress(BaseException):
        part.fails(error)


async def keep_running(
    part: Part, run: Callable[[], Awaitable[object]], *, heals: bool = False
) -> None:
    """Run an asyncio task's loop like `supervise`: until it is cancelled, or `run` returns.

    `run` calls `part.works` itself; with `heals`, the part works once `run` has lasted for
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
            _note(part, error)  # what it awaited was cancelled, not this task
        except BaseException as error:  # noqa: BLE001 (see `supervise`)
            _note(part, error)
        else:
            return
        finally:
            healed.cancel()
        await asyncio.sleep(pause.after(time.monotonic() - began))


async def repeat(part: Part, chore: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Run a chore about every `seconds` until cancelled.

    The intervals vary by a fifth, so that servers do not all run it at once, and are longer while
    it fails.
    """

    async def run() -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 (spreads them)
            part.begins()
            await chore()
            part.works()

    await keep_running(part, run)


class _Pause:
    """A pause that doubles with each failure, and is short again after a run of 10 s."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    def after(self, seconds_run: float) -> float:
        """Return the seconds to wait after a run of that length."""
        if seconds_run > 2 * PAUSE_SECONDS_MAX:
            self._seconds = FIRST_PAUSE_SECONDS
        pause = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)
        self._seconds = min(2 * self._seconds, PAUSE_SECONDS_MAX)
        return pause


def reason_of(error: BaseException) -> str:
    """Return a text for operators, of at most _REASON_CHARACTERS_MAX characters."""
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
