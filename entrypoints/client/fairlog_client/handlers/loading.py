"""The functions that run a job: the built-in ones, and the public functions of a user's module.

A handler is `def kind(payload)` or `async def kind(payload)`; a parameter named `job` after the
payload receives the `JobContext`. What it returns is the job's result, anything JSON can hold; an
exception fails the attempt with its message. An attribute `timeout_seconds` of the function bounds
each run; after one of its `final_exceptions` no further attempt follows. `names_of` decides
which names are kinds. The module is checked when it is loaded, so that a wrong signature is
reported at the start and not by the first job. The worker provides threads and the event loop.
"""

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeAlias

from msgspec import Struct, field

from fairlog_client.handlers.names import Function, NamesError, names_of
from fairlog_client.handlers.user_modules import files_of, hidden_import, is_hidden, look_in
from fairlog_client.logs.log import Log

SLEEP_SECONDS_MAX = 86_400  # a day

_log = Log("handlers")

TIMEOUT_SECONDS_MAX = 7 * 86_400
PROGRESS_CHARACTERS_MAX = 500  # of a message; the rest is cut off
_KIND_BYTES_MAX = 255


class Reserved(Struct, frozen=True):
    """The top-level packages of the program that runs the worker, which would silently replace a
    user's module of that name. `fairlog-worker` has none.
    """

    names: frozenset[str] = frozenset()
    folder: str = ""  # where they are

    def has(self, module: ModuleType | None) -> bool:
        """Return True if a module is one of theirs."""
        file = getattr(module, "__file__", None)
        return file is not None and Path(file).resolve().is_relative_to(self.folder)


class HandlersError(ValueError):
    """A handlers module cannot be used. The message is one line for the operator."""


class JobContext(Struct, frozen=True, eq=False, kw_only=True):
    """The job of a handler, passed as its argument `job`. Each attempt has its own."""

    id: int  # a position in the log
    user: str
    kind: str
    attempt: int  # from 1

    # Set by the worker, from its own thread. A handler may wait on it instead of a sleep that
    # should end early: `job.cancellation.wait(seconds)`.
    cancellation: threading.Event = field(default_factory=threading.Event)
    reporter: Callable[[float, str], None] | None = None  # of progress; None: nobody listens

    @property
    def cancelled(self) -> bool:
        """Return True once the handler should end, since its result will not be used.

        The job was cancelled, its lease has expired, its time-out has passed, or the worker stops.
        A thread cannot be stopped from outside: a long handler that is not async should check this
        between its steps and return.
        """
        return self.cancellation.is_set()

    def progress(self, fraction: float, message: str = "") -> None:
        """Report how far the handler is: the part that is done, 0 to 1, and what it is doing.

        The job, the dashboard and the stream show the latest report, after some seconds; what
        comes faster is left out. Any thread may call it, and it does not wait. Raises ValueError
        for a fraction that is no number.
        """
        is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        if not is_number or math.isnan(fraction):
            raise ValueError(f"fraction is a number from 0 to 1, not {fraction!r}")
        if self.reporter is not None:
            part = min(1.0, max(0.0, float(fraction)))
            self.reporter(part, str(message)[:PROGRESS_CHARACTERS_MAX])


class Handler(Struct, frozen=True):
    """A function that runs the jobs of one kind."""

    kind: str
    function: Callable[..., Any]
    is_async: bool  # it is called on the event loop, not in a thread
    wants_job: bool  # it has a parameter `job`
    timeout_seconds: float | None = None  # the longest run; None: no bound of the handler's own
    final_exceptions: tuple[type[BaseException], ...] = ()  # after which no attempt follows

    def call(self, payload: object, job: JobContext) -> object:
        """Call the function as its signature asks, and return its result or an awaitable of it.

        Check the result by `inspect.isawaitable`: a decorator may make an async function look like
        another one that returns an awaitable, so `is_async` can be False for it.
        """
        return self.function(payload, job=job) if self.wants_job else self.function(payload)


Handlers: TypeAlias = Mapping[str, Handler]  # by kind; read-only


NOTHING_RESERVED = Reserved()


def load_handlers(
    module_name: str | None,
    *,
    has_builtin: bool = True,
    reserved: Reserved = NOTHING_RESERVED,
) -> Handlers:
    """Return the handlers of every kind: the module's, and the built-in ones of other kinds.

    `module_name` is a dotted name, or a path ending in .py; None: the built-in handlers alone.
    Importing runs the user's code. Modules beside it are found too: the directory where it is
    searched (the current one, or the file's) is appended to sys.path and stays there, also after
    an error. Without `has_builtin` only the module's handlers are returned. A public function that
    cannot be called with a payload is left out, with a warning in the log.

    Raises HandlersError: no such module, an error while importing it, a name that is Fairlog's own
    or another module's, no handler, or a function with a parameter `job` that is no handler.
    """
    handlers = dict(_BUILT_IN) if has_builtin else {}
    if module_name is not None:
        handlers |= _handlers_of(_imported(module_name, reserved), module_name, reserved)
    if not handlers:
        raise HandlersError(
            "There is no kind of job to serve: FAIRLOG_BUILTIN_HANDLERS is off and no module is "
            "given; name one with --handlers, or serve with --workers 0"
        )
    return MappingProxyType(handlers)


def _imported(module_name: str, reserved: Reserved) -> ModuleType:
    is_file = module_name.endswith(".py")
    root = Path(module_name).stem if is_file else module_name.partition(".")[0]
    if root in reserved.names:
        raise HandlersError(
            f"handlers module {module_name!r}: {_clash(root, reserved)}; give it another name"
        )
    try:
        if is_file:
            return _import_file(Path(module_name), reserved)
        return _import_dotted(module_name, reserved)
    except (HandlersError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a module may raise anything, SystemExit among it
        raise HandlersError(
            f"handlers module {module_name!r} cannot be imported: {_reason(error, reserved)}"
        ) from error


def _import_dotted(module_name: str, reserved: Reserved) -> ModuleType:
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise HandlersError(
            f"handlers module {module_name!r}: neither a dotted module name"
            " nor a path ending in .py"
        )
    directory = Path.cwd()
    root, _, _ = module_name.partition(".")
    look_in(directory)
    if is_hidden(root, directory):
        raise HandlersError(
            f"handlers module {module_name!r}: {root!r} is {_whose(root, reserved)};"
            " give yours another name"
        )
    for file in files_of(root, directory):  # none where the module is installed
        _refuse_hidden(file, directory, module_name, reserved)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only for the module or a package around it: an import inside it may fail as well.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise HandlersError(
            f"handlers module {module_name!r}: there is no {error.name!r}"
            f" in {directory} or in this environment"
        ) from error


def _import_file(path: Path, reserved: Reserved) -> ModuleType:
    if not path.is_file():
        raise HandlersError(f"handlers module {str(path)!r}: there is no such file")
    look_in(path.resolve().parent)
    _refuse_hidden(path.resolve(), path.resolve().parent, str(path), reserved)
    # A name that cannot be another module's: a file called json.py must not become `json`.
    name = f"fairlog_handlers_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"Python has no loader for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look up a class there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _refuse_hidden(file: Path, directory: Path, module_name: str, reserved: Reserved) -> None:
    if name := hidden_import(file, directory):
        raise HandlersError(
            f"handlers module {module_name!r} imports {name!r} from {directory}, but"
            f" {name!r} is {_whose(name, reserved)}; rename yours"
        )


def _whose(name: str, reserved: Reserved) -> str:
    if name in reserved.names:
        return "a package of Fairlog's own, which hides any other"
    if name in sys.stdlib_module_names:
        return "a module of Python's own"
    return "a module that is installed in this environment"


def _reason(error: BaseException, reserved: Reserved) -> str:
    """Return in one line why an import failed."""
    name = error.name if isinstance(error, ImportError) and error.name else ""
    root = name.partition(".")[0]
    hint = f" ({_clash(root, reserved)})" if root in reserved.names else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + hint


def _clash(root: str, reserved: Reserved) -> str:
    return f"{root!r} is {_whose(root, reserved)}"


def _handlers_of(module: ModuleType, module_name: str, reserved: Reserved) -> dict[str, Handler]:
    _refuse_reserved_imports(module, module_name, reserved)
    try:
        names = names_of(module)
    except NamesError as error:
        raise HandlersError(f"handlers module {module_name!r} {error}") from None
    handlers: dict[str, Handler] = {}
    left_out = dict(names.lost)
    for kind, function in names.functions.items():
        problem = None if _is_task(function) else _problem_with(function)
        if problem is None:
            handler = _handler(kind, function, module_name)
            handlers[handler.kind] = handler
        elif names.are_listed or "job" in _parameters(function):
            raise HandlersError(
                f"handlers module {module_name!r}: {kind}() {problem}; a handler is"
                f" {kind}(payload) or {kind}(payload, job), and a function that is none starts with"
                " an underscore or is not in the module's __all__"
            )
        else:
            left_out[kind] = problem
    for name, reason in left_out.items():
        _log.warning("function_is_no_kind", module=module_name, function=name, reason=reason)
    if not handlers:
        others = "".join(f"; {name}() {reason}" for name, reason in left_out.items())
        raise HandlersError(
            f"handlers module {module_name!r} defines no public function that takes a payload, so"
            f" it adds no kind of job (imported functions do not count){others}"
        )
    return handlers


def _refuse_reserved_imports(module: ModuleType, module_name: str, reserved: Reserved) -> None:
    """Refuse a module that imports, say, a `domain` of its own and silently got a reserved one."""
    for name, value in vars(module).items():
        if isinstance(value, ModuleType):
            source = value.__name__
        elif isinstance(value, type | FunctionType):
            source = value.__module__
        else:
            continue
        root = source.partition(".")[0]
        if root in reserved.names and reserved.has(sys.modules.get(source)):
            raise HandlersError(
                f"handlers module {module_name!r} imports {name!r} from {root!r}:"
                f" {_clash(root, reserved)}; rename yours"
            )


def _handler(name: str, function: Function, module_name: str) -> Handler:
    is_task = _is_task(function)
    kind: str = getattr(function, "kind", name) if is_task else name
    try:
        _check_kind(kind)
        timeout_seconds = _timeout_seconds(function)
        final_exceptions = _final_exceptions(function)
    except ValueError as error:
        raise HandlersError(f"handlers module {module_name!r}: {name}(): {error}") from None
    if is_task:
        task: Any = function
        return Handler(
            kind=kind,
            function=task.call_with,
            is_async=_is_async(task.function),
            wants_job=True,
            timeout_seconds=timeout_seconds,
            final_exceptions=final_exceptions,
        )
    return Handler(
        kind=kind,
        function=function,
        is_async=_is_async(function),
        wants_job="job" in _parameters(function),
        timeout_seconds=timeout_seconds,
        final_exceptions=final_exceptions,
    )


def _is_task(function: Function) -> bool:
    """Return True for a `fairlog_client.Task`, which is not imported here: it brings httpx."""
    return getattr(type(function), "is_fairlog_task", False) is True


def _check_kind(kind: object) -> None:
    """Raise `ValueError` unless the server accepts the kind."""
    if not isinstance(kind, str) or not kind.isprintable():
        raise ValueError("A kind is a text without control characters.")
    if not 1 <= len(kind.encode()) <= _KIND_BYTES_MAX:
        raise ValueError(f"A kind has 1 to {_KIND_BYTES_MAX} bytes of UTF-8.")


def _final_exceptions(function: Function) -> tuple[type[BaseException], ...]:
    """Return the function's attribute of that name. Raises `ValueError`."""
    listed = getattr(function, "final_exceptions", ())
    classes = (listed,) if isinstance(listed, type) else listed
    if not isinstance(classes, tuple | list) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in classes
    ):
        raise ValueError("final_exceptions is a tuple of exception classes.")
    return tuple(classes)


def _timeout_seconds(function: Function) -> float | None:
    """Return the function's attribute of that name. Raises `ValueError`."""
    seconds = getattr(function, "timeout_seconds", None)
    if seconds is None:
        return None
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        raise ValueError(
            f"timeout_seconds is a number above 0, at most {TIMEOUT_SECONDS_MAX} (7 days)."
        )
    return float(seconds)


def _is_async(function: Function) -> bool:
    """Return True for an async function, and for an object with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 (not whether there is one)
    )


def _parameters(function: Function) -> Mapping[str, inspect.Parameter]:
    """Return the function's parameters; nothing if Python does not know them."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _problem_with(function: Function) -> str | None:
    """Return why the function cannot be called as a handler; None if it can."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "yields, so that calling it would run nothing"
    parameters = _parameters(function)
    if not parameters:
        return "takes no parameter"
    if next(iter(parameters)) == "job":
        return "has `job` as its first parameter, where the payload goes"
    job = {"job": None} if "job" in parameters else {}
    try:
        inspect.signature(function).bind(None, **job)
    except TypeError as error:
        arguments = "a payload and job=" if job else "a payload alone"
        return f"cannot be called with {arguments} ({error})"
    return None


async def _echo(payload: object) -> object:
    return payload


async def _sleep(payload: object) -> None:
    match payload:
        case {"seconds": int() | float() as seconds} if (
            not isinstance(seconds, bool) and 0 <= seconds <= SLEEP_SECONDS_MAX
        ):
            await asyncio.sleep(seconds)
        case _:
            raise ValueError(
                'sleep needs a payload {"seconds": x}, x being a number'
                f" from 0 to {SLEEP_SECONDS_MAX}"
            )


async def _fail(payload: object) -> None:
    match payload:
        case {"message": str() as message}:
            raise RuntimeError(message)
        case _:
            raise ValueError('fail needs a payload {"message": text}')


# All are async: they neither block nor compute, so none needs a thread.
_BUILT_IN: Handlers = MappingProxyType(
    {
        kind: Handler(kind=kind, function=function, is_async=True, wants_job=False)
        for kind, function in (("echo", _echo), ("sleep", _sleep), ("fail", _fail))
    }
)
