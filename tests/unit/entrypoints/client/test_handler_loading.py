import asyncio
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from entrypoints.worker.handlers import RESERVED
from fairlog_client.handlers import loading
from fairlog_client.handlers.loading import Handlers, HandlersError, JobContext
from fairlog_client.logs.log import fields_of

load_handlers = partial(loading.load_handlers, reserved=RESERVED)  # as the service's workers do

JOB = JobContext(id=1042, user="ada", kind="any", attempt=2)

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules into a current directory of the test's own; forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    known = set(sys.modules)

    def write(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def run(handlers: Handlers, kind: str, payload: object, job: JobContext = JOB) -> object:
    async def answer() -> object:
        result = handlers[kind].call(payload, job)
        return await result if inspect.isawaitable(result) else result

    return asyncio.run(answer())


def refusal(module_name: str) -> str:
    with pytest.raises(HandlersError) as caught:
        load_handlers(module_name)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(module_name) in message
    return message


# The built-in ones


def test_without_a_module_there_are_the_built_in_kinds() -> None:
    assert set(load_handlers(None)) == {"echo", "sleep", "fail"}


def test_echo_returns_its_payload() -> None:
    for payload in (None, 0, "text", [1, {"a": None}]):
        assert run(load_handlers(None), "echo", payload) == payload


def test_sleep_is_async_so_that_it_holds_no_thread() -> None:
    assert load_handlers(None)["sleep"].is_async


@pytest.mark.parametrize("payload", [{"seconds": 0}, {"seconds": 0.001, "more": True}])
def test_sleep_takes_a_number_of_seconds(payload: object) -> None:
    assert run(load_handlers(None), "sleep", payload) is None


@pytest.mark.parametrize(
    "payload",
    [
        None,
        1,
        {},
        {"seconds": None},
        {"seconds": "1"},
        {"seconds": True},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": 10**400},
        {"seconds": 86_401},
    ],
)
def test_sleep_says_what_payload_it_needs(payload: object) -> None:
    with pytest.raises(ValueError, match=r'sleep needs .*"seconds".* from 0 to 86400'):
        run(load_handlers(None), "sleep", payload)


def test_fail_fails_with_its_message() -> None:
    with pytest.raises(RuntimeError, match=r"^out of paper$"):
        run(load_handlers(None), "fail", {"message": "out of paper"})


@pytest.mark.parametrize("payload", [None, "text", {}, {"message": 3}])
def test_fail_says_what_payload_it_needs(payload: object) -> None:
    with pytest.raises(ValueError, match="fail needs a payload"):
        run(load_handlers(None), "fail", payload)


def test_handlers_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        load_handlers(None)["echo"] = load_handlers(None)["fail"]  # type: ignore[index]  # the point


# A module's functions


def test_public_functions_of_a_module_are_kinds(write: Write) -> None:
    write("jobs_plain.py", "def thumbnail(payload): return payload * 2\n")

    handlers = load_handlers("jobs_plain")

    assert set(handlers) == {"echo", "sleep", "fail", "thumbnail"}
    assert handlers["thumbnail"].kind == "thumbnail"
    assert not handlers["thumbnail"].is_async
    assert run(handlers, "thumbnail", 21) == 42


def test_an_async_function_is_a_handler_too(write: Write) -> None:
    write("jobs_async.py", "async def export(payload): return payload\n")

    handlers = load_handlers("jobs_async")

    assert handlers["export"].is_async
    assert run(handlers, "export", 1) == 1


@pytest.mark.parametrize(
    "signature",
    [
        "payload, job",
        "payload, job=None",
        "payload, *, job",
        "payload, quality=80, job=None",
        "payload, /, job",
        "anything: 'Undefined', job: 'Undefined'",
    ],
)
def test_a_parameter_named_job_after_the_payload_receives_the_job(
    write: Write, signature: str
) -> None:
    write(
        "jobs_with_job.py",
        f"def who({signature}): return [job.id, job.user, job.kind, job.attempt, job.cancelled]\n",
    )

    handlers = load_handlers("jobs_with_job")

    assert handlers["who"].wants_job
    assert run(handlers, "who", None) == [1042, "ada", "any", 2, False]


@pytest.mark.parametrize(
    "signature", ["payload", "payload, /", "payload, quality=80", "*payloads", "payload, **more"]
)
def test_a_function_without_a_parameter_named_job_is_called_with_the_payload_alone(
    write: Write, signature: str
) -> None:
    write("jobs_without_job.py", f"def f({signature}): return sorted(locals())\n")

    handlers = load_handlers("jobs_without_job")

    assert not handlers["f"].wants_job
    assert run(handlers, "f", None)


def test_private_names_classes_values_and_imported_functions_are_no_kinds(write: Write) -> None:
    write(
        "jobs_mixed.py",
        """
        import json
        import typing
        from collections.abc import Callable
        from textwrap import dedent
        from functools import partial

        class Resizer:
            def __init__(self, payload): ...

        LIMIT = 3
        UserId = typing.NewType("UserId", str)
        Sizes = list[int]
        Resize = Callable[[int], int]
        dumps = json.dumps
        _half = partial(round, ndigits=2)

        def _private(): ...
        def real(payload): ...
        """,
    )
    assert set(load_handlers("jobs_mixed")) == {"echo", "sleep", "fail", "real"}


def test_a_decorated_function_keeps_its_signature(write: Write) -> None:
    write(
        "jobs_decorated.py",
        """
        import functools

        def _logged(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper

        @_logged
        async def slow(payload, job):
            return job.id
        """,
    )
    handlers = load_handlers("jobs_decorated")

    assert handlers["slow"].wants_job
    assert run(handlers, "slow", None) == 1042


def test_whatever_decorates_a_function_it_is_a_kind(write: Write) -> None:
    write(
        "library_of_decorators.py",
        """
        import functools

        def forgetful(function):
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper

        def careful(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper

        class Counted:
            def __init__(self, function): self.function = function
            def __call__(self, payload): return self.function(payload)

        @forgetful
        def theirs(payload): ...
        """,
    )
    write(
        "jobs_of_all_sorts.py",
        """
        import functools
        from library_of_decorators import Counted, careful, forgetful, theirs

        @forgetful
        def a(payload): return "a"

        @careful
        def b(payload): return "b"

        @Counted
        def c(payload): return "c"

        @functools.lru_cache
        def d(payload): return "d"

        def _resized(payload, size): return size

        e = functools.partial(_resized, size="e")
        f = lambda payload: "f"

        class _Service:
            def run(self, payload, job): return "g"
            async def __call__(self, payload): return "h"

        g = _Service().run
        h = _Service()

        if True:
            @forgetful
            async def i(payload): return "i"
        """,
    )
    handlers = load_handlers("jobs_of_all_sorts", has_builtin=False)
    assert "".join(sorted(handlers)) == "abcdefghi"
    assert [run(handlers, kind, None) for kind in "abcdefghi"] == list("abcdefghi")
    assert handlers["g"].wants_job
    assert handlers["h"].is_async


def test_a_function_whose_decorator_left_nothing_to_call_is_named(
    write: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(
        "jobs_registered.py",
        """
        def _register(function): return None

        @_register
        def gone(payload): ...

        def good(payload): ...
        """,
    )
    assert "gone" not in load_handlers("jobs_registered")
    [record] = caplog.records
    assert (record.msg, record.levelname) == ("function_is_no_kind", "WARNING")
    fields = fields_of(record)
    assert fields is not None
    assert fields["function"] == "gone"
    assert "its decorator left a NoneType" in fields["reason"]


def test_the_list_of_all_says_which_names_are_kinds(write: Write) -> None:
    write("jobs_elsewhere_defined.py", "def fetch(payload): return 'fetched'\n")
    write(
        "jobs_with_all.py",
        """
        from jobs_elsewhere_defined import fetch
        __all__ = ["fetch", "resize"]
        def resize(payload): ...
        def helper(payload): ...
        def other_helper(width, height): ...
        """,
    )
    handlers = load_handlers("jobs_with_all", has_builtin=False)
    assert set(handlers) == {"fetch", "resize"}
    assert run(handlers, "fetch", None) == "fetched"


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("gone", "lists 'gone' in __all__ and does not define it"),
        ("LIMIT", "lists 'LIMIT' in __all__, which is no function"),
        ("Size", "lists 'Size' in __all__, which is no function"),
        ("helper", "helper() cannot be called with a payload alone"),
    ],
)
def test_a_name_of_all_that_is_no_handler_is_refused(write: Write, listed: str, said: str) -> None:
    source = f"__all__ = ['good', {listed!r}]\nLIMIT = 3\nclass Size: ...\n"
    write("jobs_wrong_all.py", f"{source}def good(payload): ...\ndef helper(a, b): ...\n")
    assert said in refusal("jobs_wrong_all")


def test_a_handler_may_bound_its_runs(write: Write) -> None:
    write(
        "jobs_bounded.py",
        "def f(payload): ...\nf.timeout_seconds = 2\ndef g(payload): ...\n",
    )
    handlers = load_handlers("jobs_bounded")
    assert (handlers["f"].timeout_seconds, handlers["g"].timeout_seconds) == (2.0, None)


def test_a_handler_may_list_exceptions_after_which_no_attempt_follows(write: Write) -> None:
    write(
        "jobs_final.py",
        "def f(payload): ...\nf.final_exceptions = (KeyError, ValueError)\n"
        "def g(payload): ...\ng.final_exceptions = OSError\ndef h(payload): ...\n",
    )
    handlers = load_handlers("jobs_final")
    assert [handlers[kind].final_exceptions for kind in "fgh"] == [
        (KeyError, ValueError),
        (OSError,),
        (),
    ]


@pytest.mark.parametrize("classes", ["'ValueError'", "(ValueError, 'KeyError')", "(int,)", "5"])
def test_a_list_of_exceptions_that_is_none_is_refused(write: Write, classes: str) -> None:
    write("jobs_not_final.py", f"def f(payload): ...\nf.final_exceptions = {classes}\n")
    assert "final_exceptions is a tuple of exception classes" in refusal("jobs_not_final")


@pytest.mark.parametrize("seconds", ["0", "-1", "True", "'2'", "float('nan')", "10**9"])
def test_a_bound_that_is_none_is_refused(write: Write, seconds: str) -> None:
    write("jobs_unbounded.py", f"def f(payload): ...\nf.timeout_seconds = {seconds}\n")
    assert "timeout_seconds is a number above 0" in refusal("jobs_unbounded")


def test_without_the_built_in_kinds_a_module_has_its_own_alone(write: Write) -> None:
    write("jobs_alone.py", "def f(payload): ...\n")
    assert set(load_handlers("jobs_alone", has_builtin=False)) == {"f"}
    with pytest.raises(HandlersError, match="There is no kind of job to serve"):
        load_handlers(None, has_builtin=False)


def test_a_function_named_like_a_built_in_kind_replaces_it(write: Write) -> None:
    write("jobs_own_echo.py", "def echo(payload): return 'mine'\n")

    assert run(load_handlers("jobs_own_echo"), "echo", "theirs") == "mine"
    assert run(load_handlers(None), "echo", "theirs") == "theirs"


def test_a_handler_sees_that_its_job_was_cancelled(write: Write) -> None:
    write("jobs_polite.py", "def polite(payload, job): return job.cancelled\n")
    handlers = load_handlers("jobs_polite")
    job = JobContext(id=1, user="ada", kind="polite", attempt=1)

    assert run(handlers, "polite", None, job) is False
    job.cancellation.set()
    assert run(handlers, "polite", None, job) is True


def test_each_attempt_has_a_cancellation_of_its_own() -> None:
    first = JobContext(id=1, user="ada", kind="echo", attempt=1)
    second = JobContext(id=1, user="ada", kind="echo", attempt=2)
    first.cancellation.set()
    assert not second.cancelled


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("def f(): ...", "takes no parameter"),
        ("def f(payload, user): ...", "missing a required argument: 'user'"),
        ("def f(payload, *, user): ...", "missing a required"),
        ("def f(*, payload): ...", "a payload alone (too many positional"),
        ("def f(**payload): ...", "a payload alone (too many positional"),
        ("def f(payload): yield 1", "yields"),
        ("async def f(payload): yield 1", "yields"),
    ],
)
def test_a_public_function_that_takes_no_payload_is_left_out_and_named(
    write: Write, definition: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    write("jobs_with_helpers.py", f"def good(payload): ...\n{definition}\n")

    assert set(load_handlers("jobs_with_helpers", has_builtin=False)) == {"good"}

    [record] = caplog.records
    fields = fields_of(record)
    assert fields is not None
    assert (record.msg, fields["function"]) == ("function_is_no_kind", "f")
    assert said in fields["reason"]


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("def f(payload, job, user): ...", "missing a required argument: 'user'"),
        ("def f(payload, job, /): ...", "a payload and job="),
        ("def f(job): ...", "first parameter"),
        ("def f(job, payload): ...", "first parameter"),
    ],
)
def test_a_function_with_a_job_that_cannot_be_called_as_a_handler_is_refused(
    write: Write, definition: str, said: str
) -> None:
    write("jobs_wrong.py", f"def good(payload): ...\n{definition}\n")

    message = refusal("jobs_wrong")

    assert "f() " in message
    assert said in message
    assert "f(payload) or f(payload, job)" in message


@pytest.mark.parametrize("source", ["", "x = 1", "from json import dumps", "def _f(payload): ..."])
def test_a_module_without_public_functions_is_refused(write: Write, source: str) -> None:
    write("jobs_empty.py", source)
    assert "no public function" in refusal("jobs_empty")


# Finding the module


def test_a_module_inside_a_package_is_found_by_its_dotted_name(write: Write) -> None:
    write("shop/__init__.py", "")
    write("shop/domain.py", "def price(payload): return 3\n")
    assert run(load_handlers("shop.domain"), "price", None) == 3


def test_a_module_is_found_by_its_path_with_its_neighbours(write: Write) -> None:
    write("elsewhere/my-jobs.py", "import neighbour_of_jobs\ndef f(payload): return __name__\n")
    write("elsewhere/neighbour_of_jobs.py", "")
    assert run(load_handlers("elsewhere/my-jobs.py"), "f", None) == "fairlog_handlers_my-jobs"


def test_a_file_named_like_a_library_hides_it_from_nobody(write: Write) -> None:
    path = write("elsewhere/json.py", "def f(payload): ...\n")

    assert "f" in load_handlers(str(path))
    assert sys.modules["json"] is json


def test_a_file_may_define_dataclasses(write: Write) -> None:
    write(
        "jobs_data.py",
        """
        from __future__ import annotations
        import dataclasses

        @dataclasses.dataclass
        class Size:
            width: int

        def width(payload): return Size(**payload).width
        """,
    )
    assert run(load_handlers("jobs_data.py"), "width", {"width": 5}) == 5


def test_a_missing_file_is_named(write: Write) -> None:
    write("jobs_other.py", "")
    assert refusal("nowhere/jobs.py").endswith("there is no such file")


@pytest.mark.parametrize("name", ["jobs_missing", "jobs_missing.images"])
def test_a_missing_module_is_named_with_where_it_was_looked_for(
    write: Write, tmp_path: Path, name: str
) -> None:
    write("jobs_other.py", "")
    assert f"there is no 'jobs_missing' in {tmp_path}" in refusal(name)


@pytest.mark.parametrize("name", ["", ".", ".jobs", "jobs.", "my-jobs", "a/b", "jobs:f", "3d"])
def test_a_name_that_is_neither_dotted_nor_a_path_is_refused(name: str) -> None:
    assert "neither a dotted module name nor a path" in refusal(name)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import library_nobody_has", "ModuleNotFoundError: No module named 'library_nobody_has'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(payload:\n", "SyntaxError: "),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("name", ["jobs_broken", "jobs_broken.py"])
def test_an_error_while_importing_is_told_in_one_line_with_its_cause(
    write: Write, name: str, source: str, said: str
) -> None:
    write("jobs_broken.py", source)

    assert f"cannot be imported: {said}" in refusal(name)
    with pytest.raises(HandlersError) as caught:
        load_handlers(name)
    assert type(caught.value.__cause__).__name__ == said.partition(":")[0]


# Names that are Fairlog's own


@pytest.mark.parametrize("ours", ["domain", "adapters", "projections", "entrypoints", "tests"])
@pytest.mark.parametrize("shape", ["{}", "{}.jobs", "{}.py", "elsewhere/{}.py"])
def test_a_module_named_like_a_package_of_ours_is_refused(
    write: Write, ours: str, shape: str
) -> None:
    name = shape.format(ours)
    write(name if name.endswith(".py") else f"{ours}.py", "def f(payload): ...\n")
    assert f"{ours!r} is a package of Fairlog's own" in refusal(name)


@pytest.mark.parametrize(
    "line", ["from adapters.pricing import price", "from adapters import pricing"]
)
def test_a_module_that_misses_its_own_package_behind_ours_is_told_so(
    write: Write, line: str
) -> None:
    write("adapters/pricing.py", "def price(payload): ...\n")
    write("jobs_hidden.py", f"{line}\ndef f(payload): ...\n")
    assert "'adapters' is a package of Fairlog's own" in refusal("jobs_hidden")


@pytest.mark.parametrize(
    "line", ["import adapters", "import adapters.clock", "from adapters.clock import SystemClock"]
)
def test_a_module_that_was_given_a_package_of_ours_for_its_own_is_told_so(
    write: Write, line: str
) -> None:
    write("jobs_mistaken.py", f"{line}\ndef f(payload): ...\n")
    assert "'adapters' is a package of Fairlog's own" in refusal("jobs_mistaken")


@pytest.mark.parametrize(("name", "whose"), [("queue", "Python's own"), ("msgspec", "installed")])
@pytest.mark.parametrize("line", ["import {}", "from {} import put", "def _later(): import {}"])
def test_a_module_of_the_users_with_the_name_of_another_is_refused_where_it_is_imported(
    write: Write, name: str, whose: str, line: str
) -> None:
    write(f"{name}.py", "def put(payload): ...\n")
    write("jobs_clashing.py", "import clashing_parts\ndef f(payload): ...\n")
    write("clashing_parts/__init__.py", "")
    write("clashing_parts/deep.py", f"{line.format(name)}\n")

    message = refusal("jobs_clashing")

    assert f"imports {name!r}" in message
    assert whose in message
    assert "rename yours" in message


def test_a_file_of_handlers_is_looked_through_too(write: Write) -> None:
    write("queue.py", "")
    write("jobs_file.py", "import queue\ndef f(payload): ...\n")
    assert "imports 'queue'" in refusal("jobs_file.py")


def test_a_handlers_module_with_the_name_of_another_is_refused(write: Write) -> None:
    write("queue.py", "def f(payload): ...\n")
    assert "'queue' is a module of Python's own; give yours another name" in refusal("queue")
    assert set(load_handlers("queue.py")) == {"echo", "sleep", "fail", "f"}


def test_what_lies_beside_the_handlers_takes_the_place_of_nothing(write: Write) -> None:
    """Whoever imports them later: the standard library, ours, and what is installed."""
    for name in ("queue", "colorsys", "msgspec", "domain/__init__"):
        write(f"{name}.py", "raise AssertionError('imported')\n")
    write("jobs_beside.py", "from jobs_helper import double\ndef f(payload): return double(2)\n")
    write("jobs_helper.py", "def double(x): return 2 * x\n")

    handlers = load_handlers("jobs_beside")
    importlib.import_module("colorsys")

    assert run(handlers, "f", None) == 4
