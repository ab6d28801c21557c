"""Modules beside a user's handlers, which are found after all others.

Python would look for them first, so that a user's `queue.py` would replace the standard library's,
even in our own code wherever it is imported later. Found last, it would silently be hidden by the
other module. So an import in the user's code that would get another module of that name is an error
that names both.
"""

import ast
import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def look_in(directory: Path) -> None:
    """Find modules in this directory too, from now on."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
    importlib.invalidate_caches()  # or a file written within the same second may not be seen


def hidden_import(file: Path, directory: Path) -> str | None:
    """Return the name of a module in the directory that the file imports, directly or through
    others there, and would not get; None if there is none. Call `look_in` before.
    """
    names = {name for name in _names_in(directory) if is_hidden(name, directory)}
    if not names:
        return None  # no file has to be read
    seen: set[Path] = set()
    unread = [file]
    while unread:
        path = unread.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imported_by(path):
            files = files_of(name, directory)
            if files and name in names:
                return name
            unread += files
    return None


def is_hidden(name: str, directory: Path) -> bool:
    """Return True if importing the name would not give the module in the directory."""
    if not ((directory / f"{name}.py").is_file() or (directory / name).is_dir()):
        return False
    try:
        found = find_spec(name)
    except (ImportError, ValueError):  # ValueError: for example `__main__`, which has no file
        return True
    if found is None:
        return False
    places = [found.origin] if found.origin else []
    places += found.submodule_search_locations or []
    return not any(Path(place).resolve().is_relative_to(directory) for place in places)


def files_of(name: str, directory: Path) -> list[Path]:
    """Return the files of a module or package in the directory; nothing if it is elsewhere."""
    module = directory / f"{name}.py"
    return [module] if module.is_file() else list((directory / name).rglob("*.py"))


def _names_in(directory: Path) -> set[str]:
    names = {path.stem for path in directory.iterdir() if path.suffix == ".py" or path.is_dir()}
    return {name for name in names if name.isidentifier()}


def _imported_by(path: Path) -> Iterator[str]:
    """Yield the first part of each imported name; nothing if the file cannot be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
