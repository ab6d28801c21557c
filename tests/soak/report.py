"""The page docs/soak.md."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.soak.referee.findings import Findings

_INTRODUCTION: Final = """# The soak

Written by `make soak` (`python -m tests.soak`), not by hand. Two servers (one on SQLite) have \
load: clients with API keys, users on plans with windows, caps and throttles, schedules, an \
application that writes to the outbox in its own transactions, workers over HTTP, `fairlog \
worker` with handlers, and `fairlog archive` again and again. Meanwhile servers, writers, \
workers, handlers, applications, archives and the database are killed, frozen and restarted at \
random, and the database is cut off, slowed, filled up and made to fail. What each client was \
answered is kept aside. At the end a referee that shares no code with the service \
(`tests/soak/referee`) reads the whole log, from the segments of the archive and from the \
database, and holds both against the rules below. `fairlog verify --archive` has the last word.
"""
_AGAIN: Final = """## Run it again

```{{not-run}} sh
:reason: it takes as long as it is told to.
{command}
```

The seed draws each fault, its moment and its length, and what each client asks. Timing also \
depends on the machine, so two runs with one seed are similar but not identical. \
`ARGS='--keep FOLDER'` keeps the logs of the servers, the moments of all faults, the answers of \
the workers and the segments.
"""
_CHECKED: Final = """## What the referee checked
"""
_NOTES: Final = """\
A refusal is wrong if the window had room. So each refusal in the log must come after the \
submission that used its window up, and each 429 that a client had must name a window that the \
log has used up. A server counts refusals in memory and records the count within a second; one \
that is killed loses the latest. Therefore refusals that were answered from two seconds before a \
fault of a server, a writer or the database until two seconds after it need not be counted in \
the log. No other check leaves them out.

`fairlog archive` leaves the last four days of a log in the database. Here it leaves the last 20 \
seconds: a soak is shorter than four days, and there would be nothing to archive.

## Faults
"""
_ANSWERS: Final = """## Answers

`none` is a connection that ended without an answer. A 500 which says that the database refuses \
the values of one command is a clear refusal; any other 500 makes the soak fail.
"""


class Outcome(Struct, frozen=True):
    """All that a soak has to say."""

    date: str
    machine: str
    versions: Sequence[str]
    database: str
    seed: int
    minutes: float
    faults: Counter[str]  # by kind
    answers: Counter[str]  # by request and status
    events: Counter[str]  # by type
    archived: int  # events that are in segments at the end
    archives: tuple[int, int]  # completed, and killed or failed
    statements_failed: int
    orders: int  # that the application committed
    pauses: Sequence[float]  # seconds that submissions took which took more than a second
    memory_growth: float | None  # of the server that lives as long; None: it is not measured
    findings: Findings
    wrong: Sequence[str]  # a sentence for all that is wrong; empty: nothing is

    @property
    def kills(self) -> int:
        return sum(count for kind, count in self.faults.items() if kind.endswith("killed"))


def write(file: Path, outcome: Outcome) -> None:
    file.write_text(_document(outcome))


def _document(one: Outcome) -> str:
    options = " ARGS='--database sqlite'" if one.database == "SQLite" else ""
    command = f"make soak MINUTES={one.minutes:g} SEED={one.seed}{options}"
    checked = [
        (str(rule), count, one.findings.broken[rule])
        for rule, count in one.findings.checked.items()
    ]
    return "\n".join(
        [
            _INTRODUCTION,
            *_circumstances(one),
            "",
            *_wrong(one),
            _AGAIN.format(command=command),
            _CHECKED,
            *_table(("rule", "checked", "broken"), checked),
            "",
            _NOTES,
            *_table(("fault", "times"), sorted(one.faults.items())),
            "",
            _ANSWERS,
            *_table(("request and status", "answers"), sorted(one.answers.items())),
            "",
            "## Events",
            "",
            *_table(("event", "times"), sorted(one.events.items())),
            "",
        ]
    )


def _circumstances(one: Outcome) -> list[str]:
    completed, others = one.archives
    lines = [
        f"Date: {one.date}",
        f"Seed {one.seed}, {one.minutes:g} minutes, {one.database}",
        f"Machine: {one.machine}",
        f"Versions: {', '.join(one.versions)}",
        (
            f"Faults: {one.faults.total():,}, of which kills: {one.kills:,}; in addition, "
            f"{one.statements_failed:,} statements were made to fail"
        ),
        (
            f"Events: {one.events.total():,}, of which archived: {one.archived:,}, by {completed} "
            f"archives; {others} others were killed or failed, and their successors went on"
        ),
        f"Jobs: {one.events['JobSubmitted']:,}, of which from the outbox: {one.orders:,}",
        (
            "Longest time from the first try of a submission to its clear answer: "
            f"{max(one.pauses, default=0.0):.1f} s; {len(one.pauses):,} took more than a second. "
            "A client stays with one server, so this includes the start of a killed one"
        ),
    ]
    if one.memory_growth is not None:
        lines.append(
            "Memory of the server that was never killed, at the end beside the beginning: "
            f"{one.memory_growth:.2f} times"
        )
    lines.append(f"Result: {'everything agrees' if not one.wrong else 'WRONG, see below'}")
    return [f"- {line}" for line in lines]


def _wrong(one: Outcome) -> list[str]:
    if not one.wrong:
        return []
    return ["## What is wrong", "", *(f"- {sentence}" for sentence in one.wrong), ""]


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    marks = ["---", *["---:"] * (len(headings) - 1)]
    lines = [[_text(cell) for cell in row] for row in (headings, marks, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
