"""Parts of Markdown text."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or nothing if it has no rows. Cells may have Markdown, but no code blocks."""
    lines = [_row(cells) for cells in rows]
    return "\n".join([_row(head), _row(["---"] * len(head)), *lines, ""]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return the text as inline code."""
    return f"`{text}`"


def plain(text: str) -> str:
    """Escape what Markdown would take as markup, except code."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        for character in "\\*_<[{":
            parts[index] = parts[index].replace(character, f"\\{character}")
    return "`".join(parts)
