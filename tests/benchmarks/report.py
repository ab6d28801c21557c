"""The table, on the terminal and as docs/benchmarks.md, which keeps the figures of each benchmark
until it is run again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tests.benchmarks.catalogue import NAMES
from tests.benchmarks.figures import Figure, number
from tests.benchmarks.plot import plot

_HEADINGS: Final = ("benchmark", "figure", "unit", "limit", "ratio", "target", "met")
_MET: Final = {True: "yes", False: "NO", None: ""}


class Circumstances(Struct, frozen=True):
    """The run in which figures were measured."""

    date: str
    machine: str
    versions: tuple[str, ...]
    is_quick: bool


class Section(Struct, frozen=True):
    """One benchmark's figures, all of one run."""

    name: str
    explanation: str  # of what was measured then
    circumstances: Circumstances
    figures: tuple[Figure, ...]


def table(figures: Mapping[str, Sequence[Figure]]) -> list[tuple[str, ...]]:
    """Headings and rows as text, for figures by benchmark."""
    return [_HEADINGS, *(_row(name, one) for name, some in figures.items() for one in some)]


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Format a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def write(folder: Path, measured: Sequence[Section]) -> None:
    """Put benchmarks.json, .md and .svg into a folder, beside what it has of other benchmarks."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "benchmarks.json"
    earlier = msgspec.json.decode(kept.read_bytes(), type=list[Section]) if kept.exists() else []
    by_name = {section.name: section for section in [*earlier, *measured]}
    sections = [by_name[name] for name in NAMES if name in by_name]
    kept.write_bytes(msgspec.json.format(msgspec.json.encode(sections)) + b"\n")
    (folder / "benchmarks.svg").write_text(plot(_figures(sections)))
    (folder / "benchmarks.md").write_text(_document(sections))


def _document(sections: Sequence[Section]) -> str:
    headings, *rows = table(_figures(sections))
    lines = [headings, ("---", "---:", "---", "---:", "---:", "---", "---"), *rows]
    explanations = "\n".join(
        f"### `{section.name}`\n\n{section.explanation.strip()}\n" for section in sections
    )
    return (
        "# Benchmarks\n\n"
        "Written by `make bench` (`python -m tests.benchmarks`), not by hand. Each figure stands "
        "beside its limit, measured in the same run on the same machine: absolute figures change "
        "with the machine and the day, ratios hardly do. Compare no figures of different runs. "
        "Database, server and load generator share the machine.\n\n"
        + "".join(map(_run, _runs(sections)))
        + "\n![Each figure as a share of its limit](benchmarks.svg)\n\n"
        + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        + f"\n\n## What each figure is held against\n\n{explanations}"
    )


def _figures(sections: Sequence[Section]) -> dict[str, Sequence[Figure]]:
    return {section.name: section.figures for section in sections}


def _runs(sections: Sequence[Section]) -> list[list[Section]]:
    """The sections of each run."""
    runs: dict[Circumstances, list[Section]] = {}
    for section in sections:
        runs.setdefault(section.circumstances, []).append(section)
    return list(runs.values())


def _run(sections: Sequence[Section]) -> str:
    run = sections[0].circumstances
    quick = " **Made with `--quick`, to see that they work: the figures mean nothing.**"
    names = ", ".join(f"`{section.name}`" for section in sections)
    return (
        f"- {run.date}: {names}.{quick if run.is_quick else ''}\n"
        f"  - Machine: {run.machine}\n  - Versions: {', '.join(run.versions)}\n"
    )


def _row(name: str, figure: Figure) -> tuple[str, ...]:
    limit = "" if figure.limit is None else f"{number(figure.limit.value)} ({figure.limit.what})"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    target = "" if figure.target is None else str(figure.target)
    return (
        f"{name}: {figure.name}",
        number(figure.value),
        figure.unit,
        limit,
        ratio,
        target,
        _MET[figure.is_met],
    )
