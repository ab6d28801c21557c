"""Blocks of code in Markdown documents."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.support.repository import ROOT

_FENCE: Final = re.compile(r"^( *)(`{3,})(.*)$")
_DIRECTIVE: Final = re.compile(r"\{([\w-]+)\}\s*(\S*)")
_REASON: Final = re.compile(r"^:reason: (.+)$", re.MULTILINE)
# Directives of Sphinx whose content is no code.
_MARKUP: Final = {"toctree", "glossary", "include", "figure", "image", "admonition", "note"}


class Block(Struct, frozen=True):
    """A block of code of a document."""

    document: Path
    line: int  # of its first line of code, from 1
    language: str  # "" if it has none
    text: str
    not_run: str | None = None  # the reason why the tests do not run it; None: they do

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.document, ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """Yield the blocks of code of a document, in order."""
    lines = iter(enumerate(document.read_text().splitlines(), start=1))
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            continue
        indent, fence, info = opening.groups()
        content: list[str] = []
        for _, inner in lines:
            if inner.strip() == fence:
                break
            content.append(inner.removeprefix(indent))
        block = _block(document, number + 1, info.strip(), "\n".join(content))
        if block is not None:
            yield block


def _block(document: Path, line: int, info: str, text: str) -> Block | None:
    directive = _DIRECTIVE.match(info)
    if directive is None:
        return Block(document, line, info, text)
    name, argument = directive.groups()
    if name in _MARKUP:
        return None
    assert name == "not-run", f"{document}:{line}: {name} is unknown to tests/support/blocks.py"
    reason = _REASON.search(text)
    assert reason is not None, f"{document}:{line}: not-run needs a reason"
    return Block(document, line, argument, text, reason[1])
