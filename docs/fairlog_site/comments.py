"""Comments on the fields of a class, from its source."""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator


def comments_of(cls: type) -> dict[str, str]:
    """Return the comment of each field as a sentence: the one on its line, else those above it."""
    source = textwrap.dedent(inspect.getsource(cls))
    on_lines, above = _comments(source)
    return {
        name: _sentence(text)
        for name, line in _fields(source)
        if (text := on_lines.get(line) or _block(above, line))
    }


def _sentence(text: str) -> str:
    """Complete a comment, with the name that JSON has for None."""
    text = re.sub(r"\bNone\b", "null", text)
    return text[0].upper() + text[1:].rstrip(".") + "."


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Return the comments behind code, and those that have a line for themselves, by line."""
    behind: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found = alone if token.line.lstrip().startswith("#") else behind
            found[token.start[0]] = token.string.lstrip("# ")
    return behind, alone


def _block(alone: dict[int, str], line: int) -> str:
    lines: list[str] = []
    while (line := line - 1) in alone:
        lines.insert(0, alone[line])
    return " ".join(lines)


def _fields(source: str) -> Iterator[tuple[str, int]]:
    """Yield the names that a class defines, each with its line."""
    [definition] = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name, node.lineno
