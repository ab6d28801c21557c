"""How commands speak: results to standard output, everything else to standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import rich_click as click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS: Final = 2.0  # between two lines of progress where there is no terminal

Report = Callable[[int, int], None]  # events done, events there are


def say(text: str) -> None:
    click.echo(text)


def note(text: str) -> None:
    """For the person, not for the program that reads the results."""
    click.echo(text, err=True)


def has_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty()  # None: it was closed


def counted(count: int, one: str, many: str) -> str:
    """`1 job`, `1,042 jobs`."""
    return f"{count:,} {one if count == 1 else many}"


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A bar with events a second and the time left; without a terminal, a line now and then."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))
    else:
        yield _OutputLines(what).report


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} events/s")


class _OutputLines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._started = self._told = time.monotonic()

    def report(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told < LINE_SECONDS:
            return
        self._told = now
        speed = done / (now - self._started)
        left = "" if not speed else f", {max(0, total - done) / speed:,.0f} s left"
        note(f"{self._what}: {done:,} of {total:,} events, {speed:,.0f} events/s{left}")


def examples(*commands: str) -> str:
    """Text for below a command's help: rich-click gives each paragraph of it a line."""
    return "\n\n".join(["Examples:", *commands])


def printable(text: str) -> str:
    """Text that cannot move the cursor, turn the reading direction, or start another line."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isprintable() else f"\\u{ord(character):04x}"
