"""The modules that a user has beside the handlers: found behind all others, never in their place.

Python would look for them first, so that a `queue.py` of theirs replaced the standard library's, in
our own code too, wherever that is imported later. Found last, it would be hidden from theirs
instead, silently: so an import of theirs that another module of the same name would answer is an
error that names both.
"""

import ast
import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def look_in(directory: Path) -> None:
    """Find modules there too, from now on."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
    importlib.invalidate_caches()  # or a file written within the same second may not be seen


def hidden_import(file: Path, directory: Path) -> str | None:
    """The name of a module in the directory that the file imports, or what it imports there does,
    and would not get; None: there is none. `look_in` comes first.
    """
    names = {name for name in _names_in(directory) if is_hidden(name, directory)}
    if not names:
        return None  # nothing has to be read
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
    """Say whether a module in the directory is not what its name stands for."""
    if not ((directory / f"{name}.py").is_file() or (directory / name).is_dir()):
        return False
    try:
        found = find_spec(name)
    except (ImportError, ValueError):  # ValueError: such as `__main__`, which has no place
        return True
    if found is None:
        return False
    places = [found.origin] if found.origin else []
    places += found.submodule_search_locations or []
    return not any(Path(place).resolve().is_relative_to(directory) for place in places)


def files_of(name: str, directory: Path) -> list[Path]:
    """Of a module or a package in the directory; none: it is elsewhere."""
    module = directory / f"{name}.py"
    return [module] if module.is_file() else list((directory / name).rglob("*.py"))


def _names_in(directory: Path) -> set[str]:
    names = {path.stem for path in directory.iterdir() if path.suffix == ".py" or path.is_dir()}
    return {name for name in names if name.isidentifier()}


def _imported_by(path: Path) -> Iterator[str]:
    """The first part of each name. What cannot be read says so when it is imported."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
