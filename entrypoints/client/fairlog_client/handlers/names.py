"""The names of a user's module that are kinds of job.

If the module has `__all__`, these are the names that it lists. Else they are the public names that
the module itself binds to a callable: a function, decorated or not, a lambda, a partial, a bound
method, an object with `__call__`. Imported names, classes and modules are no kinds.
"""

import ast
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from msgspec import Struct

Function = Callable[..., Any]


class NamesError(ValueError):
    """A module declares its kinds wrongly. The message follows the module's name."""


class Names(Struct, frozen=True):
    """The kinds of a module, and why others are none."""

    functions: dict[str, Function]  # by name; their signatures are not checked yet
    lost: dict[str, str]  # by name: why a decorated function cannot be called any more
    are_listed: bool  # by `__all__`


def names_of(module: ModuleType) -> Names:
    """Return the kinds of a module. Raises NamesError."""
    listed = vars(module).get("__all__")
    if listed is not None:
        return Names({name: _listed(module, name) for name in listed}, {}, are_listed=True)
    bound = _bound_by(module)
    functions: dict[str, Function] = {}
    lost: dict[str, str] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType | type) or name in bound.imported:
            continue
        if callable(value):
            is_here = name in bound.defined or _is_function_like(value)
            if is_here and not _belongs_elsewhere(value, module):
                functions[name] = value
        elif name in bound.defined:
            lost[name] = f"its decorator left a {type(value).__name__}, which cannot be called"
    return Names(functions, lost, are_listed=False)


def _listed(module: ModuleType, name: object) -> Function:
    if not isinstance(name, str) or not hasattr(module, name):
        raise NamesError(f"lists {name!r} in __all__ and does not define it")
    value = getattr(module, name)
    if isinstance(value, ModuleType | type) or not callable(value):
        raise NamesError(f"lists {name!r} in __all__, which is no function")
    function: Function = value
    return function


class _Bound(Struct, frozen=True):
    """The names that the statements of a module bind, by the kind of statement."""

    imported: frozenset[str] = frozenset()
    defined: frozenset[str] = frozenset()  # by `def`


def _bound_by(module: ModuleType) -> _Bound:
    """Parse the module's source; without readable source nothing is returned."""
    imported: set[str] = set()
    defined: set[str] = set()
    for statement in _statements(module):
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.Import(names=names):
                imported |= {one.asname or one.name.partition(".")[0] for one in names}
            case ast.ImportFrom(names=names):
                imported |= {one.asname or one.name for one in names}
            case _:
                pass
    return _Bound(frozenset(imported - defined), frozenset(defined))


def _statements(module: ModuleType) -> Iterator[ast.stmt]:
    """Yield the statements that run on import: none inside functions and classes."""
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return
    with suppress(OSError, SyntaxError, ValueError):
        pending: list[ast.AST] = [ast.parse(Path(file).read_bytes())]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.stmt):
                yield node
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                pending += ast.iter_child_nodes(node)


def _is_function_like(value: object) -> bool:
    """Return False for a type alias, a NewType and other callables of the standard library."""
    if isinstance(value, FunctionType | MethodType | functools.partial):
        return True
    if hasattr(value, "__wrapped__"):
        return True
    return type(value).__module__.partition(".")[0] not in sys.stdlib_module_names


def _belongs_elsewhere(value: object, module: ModuleType) -> bool:
    """Return True if another module has it under its own name, as for an import."""
    source, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(source, str) or not isinstance(path, str) or source == module.__name__:
        return False
    found: object = sys.modules.get(source)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is value
