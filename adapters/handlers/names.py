"""Which names of a user's module are kinds of job.

With `__all__`, those that it lists. Else every public name that the module itself binds to
something that can be called: a function however it is decorated, a lambda, a partial, a bound
method, an object with `__call__`. Names that an import brought, classes and modules are none.
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
    """What a module says of its kinds cannot be. The message follows the module's name."""


class Names(Struct, frozen=True):
    functions: dict[str, Function]  # by name; not checked yet
    lost: dict[str, str]  # functions that cannot be called any more: why not
    are_listed: bool  # by `__all__`


def names_of(module: ModuleType) -> Names:
    """Raises NamesError."""
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
    """How the statements of a module bind its names."""

    imported: frozenset[str] = frozenset()
    defined: frozenset[str] = frozenset()  # by `def`


def _bound_by(module: ModuleType) -> _Bound:
    """Nothing is known of a module without readable source."""
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
    """Those that run when the module does: not what is inside functions and classes."""
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
    """Not a type alias, a NewType or another tool of the standard library that can be called."""
    if isinstance(value, FunctionType | MethodType | functools.partial):
        return True
    if hasattr(value, "__wrapped__"):
        return True
    return type(value).__module__.partition(".")[0] not in sys.stdlib_module_names


def _belongs_elsewhere(value: object, module: ModuleType) -> bool:
    """It is found under its own name in another module, as what was imported is."""
    source, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(source, str) or not isinstance(path, str) or source == module.__name__:
        return False
    found: object = sys.modules.get(source)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is value
