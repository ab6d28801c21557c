"""The table, on the terminal and as docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.benchmarks.figures import Figure, number
from tests.benchmarks.plot import plot

_HEADINGS: Final = ("benchmark", "figure", "unit", "limit", "ratio", "target", "met")
_MET: Final = {True: "yes", False: "NO", None: ""}


class Section(Struct, frozen=True):
    """One benchmark's figures and what they mean."""

    name: str
    explanation: str
    figures: Sequence[Figure]


class Circumstances(Struct, frozen=True):
    machine: str
    versions: Sequence[str]
    date: str
    is_quick: bool


def table(sections: Sequence[Section]) -> list[tuple[str, ...]]:
    """Headings and rows as text."""
    return [_HEADINGS, *(_row(section, one) for section in sections for one in section.figures)]


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Format a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def write(folder: Path, sections: Sequence[Section], circumstances: Circumstances) -> None:
    """Put benchmarks.md and benchmarks.svg into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {section.name: section.figures for section in sections}
    (folder / "benchmarks.svg").write_text(plot(figures))
    (folder / "benchmarks.md").write_text(_document(sections, circumstances))


def _document(sections: Sequence[Section], circumstances: Circumstances) -> str:
    quick = (
        "> **Made with `--quick`: short and small, to see that the benchmarks work. "
        "The figures mean nothing.**\n\n"
    )
    headings, *rows = table(sections)
    lines = [headings, ("---", "---:", "---", "---:", "---:", "---", "---"), *rows]
    explanations = "\n".join(
        f"### `{section.name}`\n\n{section.explanation.strip()}\n" for section in sections
    )
    return (
        "# Benchmarks\n\n"
        "Written by `make bench` (`python -m tests.benchmarks`), not by hand. Each figure stands "
        "beside its limit, measured in the same run on the same machine: absolute figures change "
        "with the machine, ratios hardly do. Database, server and load generator share the "
        "machine.\n\n"
        f"{quick if circumstances.is_quick else ''}"
        f"- Date: {circumstances.date}\n- Machine: {circumstances.machine}\n"
        f"- Versions: {', '.join(circumstances.versions)}\n\n"
        "![Each figure as a share of its limit](benchmarks.svg)\n\n"
        + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        + f"\n\n## What each figure is held against\n\n{explanations}"
    )


def _row(section: Section, figure: Figure) -> tuple[str, ...]:
    limit = "" if figure.limit is None else f"{number(figure.limit.value)} ({figure.limit.what})"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    target = "" if figure.target is None else str(figure.target)
    return (
        f"{section.name}: {figure.name}",
        number(figure.value),
        figure.unit,
        limit,
        ratio,
        target,
        _MET[figure.is_met],
    )
