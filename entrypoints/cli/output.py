"""The output of commands: results go to standard output, everything else to standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import rich.progress
import rich_click as click
from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS: Final = 2.0  # between two lines of progress without a terminal

Progress = Callable[[int, int], None]  # events done, events in all
StepProgress = Callable[[str, int, int], None]  # what is being done, and the same


def echo(text: str) -> None:
    """Write a line of the result to standard output."""
    click.echo(text)


def note(text: str) -> None:
    """Write a line for the user, not for a program that reads the result, to standard error."""
    click.echo(text, err=True)


def has_terminal() -> bool:
    """Return True if the user can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()  # None: it was closed


def counted(count: int, one: str, many: str) -> str:
    """Return a number and its noun, like `1 job` or `1,042 jobs`."""
    return f"{count:,} {one if count == 1 else many}"


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Show a progress bar with speed and remaining time, or lines where there is no terminal."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))
    else:
        yield _ProgressLines(what).report


@contextmanager
def progress_of_steps() -> Iterator[StepProgress]:
    """Do the same for work of several steps, each with its name, speed and time of its own."""
    with ExitStack() as stack:
        shown: dict[str, Progress] = {}  # the step that goes on

        def report(what: str, done: int, total: int) -> None:
            if what not in shown:
                stack.close()
                shown.clear()
                shown[what] = stack.enter_context(progress(what))
            shown[what](done, total)

        yield report


def _bar() -> rich.progress.Progress:
    return rich.progress.Progress(
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


class _ProgressLines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._started = self._written = time.monotonic()

    def report(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._written < LINE_SECONDS:
            return
        self._written = now
        speed = done / (now - self._started)
        left = "" if not speed else f", {max(0, total - done) / speed:,.0f} s left"
        note(f"{self._what}: {done:,} of {total:,} events, {speed:,.0f} events/s{left}")


def examples(*commands: str) -> str:
    """Return the epilogue of a command's help; rich-click puts each paragraph on a line."""
    return "\n\n".join(["Examples:", *commands])


def printable(text: str) -> str:
    """Escape what could move the cursor, turn the reading direction, or start another line."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isprintable() else f"\\u{ord(character):04x}"
