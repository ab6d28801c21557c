"""A check that no module on PYTHONPATH replaces a module of Fairlog or of Python itself."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_HOME: Final = Path(__file__).resolve().parents[2]
_NEEDED: Final = (sys.stdlib_module_names - {"test"}) | {
    "domain",
    "adapters",
    "projections",
    "entrypoints",
}


def refuse_replacements() -> None:
    """Exit with a message that names the file if one on PYTHONPATH replaces a needed module."""
    for folder in _folders():
        for path in _modules(folder):
            if path.stem in _NEEDED and _is_found_in(folder, path.stem):
                sys.exit(
                    f"fairlog: PYTHONPATH has {folder}, where {path.name} takes the place of a "
                    f"module that Fairlog needs, {path.stem!r}: take the folder off PYTHONPATH, or "
                    "rename what is in it."
                )


def _folders() -> Iterator[Path]:
    """Yield the folders of PYTHONPATH except our own; an empty entry is the current folder."""
    given = os.environ.get("PYTHONPATH")
    if given and not sys.flags.ignore_environment:
        folders = (Path(entry or os.curdir).resolve() for entry in given.split(os.pathsep))
        yield from (folder for folder in folders if folder != _HOME)


def _modules(folder: Path) -> Iterator[Path]:
    try:
        yield from (
            path
            for path in folder.iterdir()
            if path.suffix == ".py" or (path / "__init__.py").is_file()
        )
    except OSError:
        return  # the folder does not exist or cannot be read: Python skips it, too


def _is_found_in(folder: Path, name: str) -> bool:
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        return False
    origin = None if found is None else found.origin
    return origin is not None and Path(origin).resolve().is_relative_to(folder)
