"""`fairlog limits`, `users`, `plans`, `kinds` and `resources`: show and set limits; `pause` and
`resume`.

They work on the database itself, as `fairlog keys` does, and so need no key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import rich_click as click
from msgspec import UNSET

from domain.language import validation
from domain.language.commands import ChangeLimit, Command, DeletePlan
from domain.language.retry_fields import RetryFields
from entrypoints.cli.options import format_option
from entrypoints.cli.output import echo, examples, note, printable
from entrypoints.cli.push import parse_endpoint, show_push_secret
from entrypoints.cli.session import database_url_option, open_writer
from entrypoints.http.limit_requests import (
    KindChange,
    LimitChange,
    StartLimitChange,
    parse_rate,
)
from entrypoints.http.paging import PAGE_MAX
from entrypoints.service import limit_reads

DEFAULT: Final = "default"  # the value of an option that removes what is set
F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


class _OrDefault(click.ParamType[Any]):
    """A value of another type, or `default`, which is None to the command."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self,
        value: Any,  # noqa: ANN401 (a text, or the default)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return None if value == DEFAULT else self._parse(value)
        except ValueError:
            self.fail(f"{value!r} is not {_FORMS[self.name]}, nor `default`.", param, ctx)


_FORMS: Final = {
    "number": "a whole number",
    "rate": "a limit and a length of time, like 10/1s, 1000/1h or 5/30s",
    "weight": "a number",
    "flag": "yes or no",
    "name": "a name",
    "seconds": "a number",
    "endpoint": "a URL, or an endpoint as JSON",
    "json": 'a retry policy as JSON, like \'{"attempts": 15, "base_seconds": 10}\'',
}


def _retry(text: str) -> RetryFields:
    try:
        return msgspec.json.decode(text, type=RetryFields)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError from error


def _flag(text: str) -> bool:
    return {"yes": True, "no": False}[text] if text in {"yes", "no"} else _no_flag()


def _no_flag() -> bool:
    raise ValueError


def _option(flag: str, form: str, parse: Callable[[str], object], text: str) -> Callable[[F], F]:
    """Return an option that is UNSET where it is not given."""
    return click.option(
        flag,
        type=_OrDefault(form, parse),
        default=UNSET,
        metavar={"rate": "N/TIME", "number": "N", "flag": "yes|no"}.get(form, form.upper()),
        help=text,
    )


_RUNNING: Final = _option("--running", "number", int, "Jobs that run at once.")
_THROTTLE: Final = _option(
    "--throttle", "rate", parse_rate, "Starts of jobs in each window, like 5/1s; the others wait."
)
_PAUSED: Final = _option("--paused", "flag", _flag, "No job starts.")
_SHARE: Final = (
    _option("--limit", "number", int, "Submissions in each window of the server."),
    _RUNNING,
    click.option(
        "--window",
        "windows",
        type=_OrDefault("rate", parse_rate),
        multiple=True,
        metavar="N/TIME",
        help="A further limit of submissions, like 10/1s (repeatable: all have to allow).",
    ),
    _THROTTLE,
    _option("--weight", "weight", float, "The share of the service, 0.01 to 1000."),
    _PAUSED,
    _option("--max-attempts", "number", int, "The most attempts that a job may ask for."),
    _option("--max-priority", "number", int, "The highest priority that a job may ask for."),
)
_PLAN: Final = _option("--plan", "name", str, "The plan that the user is on.")
_STARTS: Final = (_RUNNING, _THROTTLE, _PAUSED)
_OF_JOBS: Final = (
    _option("--retry", "json", _retry, "When failed attempts of its jobs are followed by another."),
    _option("--timeout-seconds", "seconds", float, "The longest run of an attempt of its jobs."),
    _option(
        "--push",
        "endpoint",
        parse_endpoint,
        "The URL that servers post its jobs to, or JSON with `url`, `timeout_seconds` and "
        "`secret_version`.",
    ),
)
_form: Final = format_option("text", "json", text="Text for people, or JSON.")


def _with(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    def add_all(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add_all


# Users, and all users together


@click.group()
def limits() -> None:
    """Show and set the limits of all users together, or of one user.

    A value of `default` removes what is set.
    """


@limits.command(
    "show", epilog=examples("fairlog limits show", "fairlog limits show alice --format json")
)
@database_url_option
@click.argument("user", required=False)
@_form
def show_limits(database_url: str | None, *, user: str | None, form: str) -> None:
    """Show the limits of all users together, or of USER, and how they stand."""
    with open_writer(database_url, submits=False) as fairlog:
        if user is None:
            _show(limit_reads.global_limits(fairlog), form)
        else:
            _show(limit_reads.user_limits(fairlog, validation.user_id(user)), form)


@limits.command(
    "set",
    epilog=examples(
        "fairlog limits set --limit 100000 --window 500/1s",
        "fairlog limits set alice --plan gold --weight 2",
        "fairlog limits set alice --throttle 5/1s --limit default",
    ),
)
@database_url_option
@click.argument("user", required=False)
@_with(*_SHARE, _PLAN)
def set_limits(database_url: str | None, *, user: str | None, **given: Any) -> None:  # noqa: ANN401 (an option each)
    """Set limits of all users together, or of USER. What is not given stays."""
    change = LimitChange(**_fields(given))
    _change(
        database_url,
        change.of_all() if user is None else change.of_user(validation.user_id(user)),
    )


@click.group()
def users() -> None:
    """Show and set the limits of a user: windows, throttle, weight, plan and pause."""


@users.command("show", epilog=examples("fairlog users show alice"))
@database_url_option
@click.argument("user")
@_form
def show_user(database_url: str | None, *, user: str, form: str) -> None:
    """Show the limits of USER, each the user's own or that of the plan, and how they stand."""
    with open_writer(database_url, submits=False) as fairlog:
        _show(limit_reads.user_limits(fairlog, validation.user_id(user)), form)


@users.command("set", epilog=examples("fairlog users set alice --plan gold --throttle 5/1s"))
@database_url_option
@click.argument("user")
@click.option("--kind", metavar="KIND", help="Only the user's jobs of this kind.")
@_with(*_SHARE, _PLAN)
def set_user(database_url: str | None, *, user: str, kind: str | None, **given: Any) -> None:  # noqa: ANN401 (an option each)
    """Set limits of USER, or of the user's jobs of a kind. What is not given stays."""
    fields, user_id = _fields(given), validation.user_id(user)
    if kind is None:
        _change(database_url, LimitChange(**fields).of_user(user_id))
        return
    others = fields.keys() - {"running", "throttle", "paused"}
    if others:
        raise click.UsageError(
            f"--kind takes --running, --throttle and --paused alone, not "
            f"{', '.join(sorted(others))}."
        )
    _change(database_url, StartLimitChange(**fields).of_user_kind(user_id, validation.kind(kind)))


# Plans


@click.group()
def plans() -> None:
    """List, show, set and delete plans: limits of all users who are on them.

    The plan `default` is for users whom nobody has put on a plan.
    """


@plans.command("list", epilog=examples("fairlog plans list --format json"))
@database_url_option
@_form
def list_plans(database_url: str | None, *, form: str) -> None:
    """List all plans."""
    with open_writer(database_url, submits=False) as fairlog:
        _list(lambda after: limit_reads.plans(fairlog, after, PAGE_MAX), "plans", form)


@plans.command("show", epilog=examples("fairlog plans show gold"))
@database_url_option
@click.argument("name")
@_form
def show_plan(database_url: str | None, *, name: str, form: str) -> None:
    """Show a plan, and how many users are on it."""
    with open_writer(database_url, submits=False) as fairlog:
        _show(limit_reads.plan(fairlog, validation.plan_name(name)), form)


@plans.command(
    "set",
    epilog=examples("fairlog plans set gold --limit 6000 --window 100/1s --weight 10 --running 50"),
)
@database_url_option
@click.argument("name")
@_with(*_SHARE)
def set_plan(database_url: str | None, *, name: str, **given: Any) -> None:  # noqa: ANN401 (an option each)
    """Set limits of a plan for all its users at once, or make it. What is not given stays."""
    change = LimitChange(**_fields(given))
    _change(database_url, change.of_plan(validation.plan_name(name)))


@plans.command("delete", epilog=examples("fairlog plans delete gold"))
@database_url_option
@click.argument("name")
def delete_plan(database_url: str | None, *, name: str) -> None:
    """Delete a plan that no user is on."""
    _change(database_url, DeletePlan(plan=validation.plan_name(name)))


# Kinds and resources


@click.group()
def kinds() -> None:
    """List, show and set the limits of kinds of job."""


@kinds.command("list", epilog=examples("fairlog kinds list"))
@database_url_option
@_form
def list_kinds(database_url: str | None, *, form: str) -> None:
    """List the kinds that have jobs or limits."""
    with open_writer(database_url, submits=False) as fairlog:
        _list(lambda after: limit_reads.kinds(fairlog, after, PAGE_MAX), "kinds", form)


@kinds.command("show", epilog=examples("fairlog kinds show thumbnail"))
@database_url_option
@click.argument("kind")
@_form
def show_kind(database_url: str | None, *, kind: str, form: str) -> None:
    """Show the limits of KIND, and how it stands."""
    with open_writer(database_url, submits=False) as fairlog:
        _show(limit_reads.kind(fairlog, validation.kind(kind)), form)


@kinds.command(
    "set",
    epilog=examples(
        "fairlog kinds set thumbnail --running 8 --throttle 100/1m --timeout-seconds 60",
        """fairlog kinds set webhook --retry '{"attempts": 15, "base_seconds": 10, "factor": 3}'""",
    ),
)
@database_url_option
@click.argument("kind")
@_with(*_STARTS, *_OF_JOBS)
def set_kind(database_url: str | None, *, kind: str, **given: Any) -> None:  # noqa: ANN401 (an option each)
    """Set limits of KIND, and what its jobs are submitted with if they say nothing themselves. What
    is not given stays.
    """
    _change(database_url, KindChange(**_fields(given)).of_kind(validation.kind(kind)))


kinds.add_command(show_push_secret)


@click.group()
def resources() -> None:
    """List, show and set the limits of resources, which submissions name.

    A name with `*` at its end is a prefix: each resource that begins so has these limits.
    """


@resources.command("list", epilog=examples("fairlog resources list"))
@database_url_option
@_form
def list_resources(database_url: str | None, *, form: str) -> None:
    """List the resources and prefixes that have limits."""
    with open_writer(database_url, submits=False) as fairlog:
        _list(lambda after: limit_reads.resources(fairlog, after, PAGE_MAX), "resources", form)


@resources.command("show", epilog=examples("fairlog resources show shopify:acme"))
@database_url_option
@click.argument("name")
@_form
def show_resource(database_url: str | None, *, name: str, form: str) -> None:
    """Show the limits of a resource, and the name or prefix that they are set for."""
    with open_writer(database_url, submits=False) as fairlog:
        _show(limit_reads.resource(fairlog, validation.resource_setting(name)), form)


@resources.command(
    "set",
    epilog=examples(
        "fairlog resources set 'shopify:*' --running 1 --throttle 2/1s",
        "fairlog resources set shopify:acme --running default",
    ),
)
@database_url_option
@click.argument("name")
@_with(*_STARTS)
def set_resource(database_url: str | None, *, name: str, **given: Any) -> None:  # noqa: ANN401 (an option each)
    """Set limits of a resource, or of a prefix and `*`. What is not given stays."""
    change = StartLimitChange(**_fields(given))
    _change(database_url, change.of_resource(validation.resource_setting(name)))


# Pauses


_SUBJECTS: Final = (
    click.option("--user", metavar="ID", help="The jobs of this user."),
    click.option("--kind", metavar="KIND", help="The jobs of this kind; with --user, the user's."),
    click.option("--resource", metavar="NAME", help="The jobs that use it; or a prefix and `*`."),
    click.option("--all", "is_all", is_flag=True, help="All jobs."),
)


@click.command(
    epilog=examples(
        "fairlog pause --kind thumbnail", "fairlog pause --user alice", "fairlog pause --all"
    )
)
@database_url_option
@_with(*_SUBJECTS)
def pause(database_url: str | None, **subject: Any) -> None:  # noqa: ANN401 (an option each)
    """Start no further jobs of a user, a kind or a resource, or no jobs at all.

    What runs goes on, and submissions are taken.
    """
    _change(database_url, _pause(paused=True, **subject))


@click.command(epilog=examples("fairlog resume --kind thumbnail", "fairlog resume --all"))
@database_url_option
@_with(*_SUBJECTS)
def resume(database_url: str | None, **subject: Any) -> None:  # noqa: ANN401 (an option each)
    """Start jobs again that a pause has kept back."""
    _change(database_url, _pause(paused=None, **subject))


def _pause(
    *,
    paused: bool | None,
    user: str | None,
    kind: str | None,
    resource: str | None,
    is_all: bool,
) -> ChangeLimit:
    match user, kind, resource, is_all:
        case None, None, None, True:
            return LimitChange(paused=paused).of_all()
        case str(), None, None, False:
            return LimitChange(paused=paused).of_user(validation.user_id(user))
        case str(), str(), None, False:
            change = StartLimitChange(paused=paused)
            return change.of_user_kind(validation.user_id(user), validation.kind(kind))
        case None, str(), None, False:
            return StartLimitChange(paused=paused).of_kind(validation.kind(kind))
        case None, None, str(), False:
            change = StartLimitChange(paused=paused)
            return change.of_resource(validation.resource_setting(resource))
        case _:
            raise click.UsageError("Name one of --user, --kind, --resource and --all.")


# Shared

_NAMES: Final = {"plans": "name", "kinds": "kind", "resources": "resource"}


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a change that were given; several windows are one field."""
    fields = {name: value for name, value in given.items() if value is not UNSET}
    windows = fields.pop("windows", ())
    if windows:
        fields["windows"] = None if windows == (None,) else list(windows)
    if "max_priority" in fields:
        fields["priority_max"] = fields.pop("max_priority")
    return fields


def _change(database_url: str | None, command: Command) -> None:
    with open_writer(database_url, submits=False) as fairlog:
        fairlog.execute_now(command)
    note("Done; it holds from the next decision on.")


def _show(reading: Awaitable[T], form: str) -> None:
    view = asyncio.run(_read(reading))
    if form == "json":
        echo(msgspec.json.encode(view).decode())
        return
    for name, value in msgspec.to_builtins(view).items():
        if name not in {"global", "set"}:
            echo(f"{name}: {value_text(value)}")


def _list(page_after: Callable[[str], Awaitable[Any]], what: str, form: str) -> None:
    after: str | None = ""
    while after is not None:
        page = asyncio.run(_read(page_after(after)))
        for one in getattr(page, what):
            if form == "json":
                echo(msgspec.json.encode(one).decode())
                continue
            fields = {name: value for name, value in msgspec.to_builtins(one).items() if value}
            named = fields.pop(_NAMES[what])
            parts = [f"{name} {value_text(value)}" for name, value in fields.items()]
            echo("; ".join([printable(named), *parts]))
        after = page.next


async def _read(reading: Awaitable[T]) -> T:
    return await reading


def value_text(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return a value of an answer as text for people."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case []:
            return "-"
        case list():
            return ", ".join(map(value_text, value))
        case {"limit": limit, "seconds": seconds, "used": used}:
            return f"{used:,} of {limit:,} in {seconds:,} s"
        case {"limit": limit, "seconds": seconds, "started": int() as started}:
            return f"{started:,} of {limit:,} started in {seconds:,} s"
        case {"limit": limit, "seconds": seconds}:
            return f"{limit:,} in {seconds:,} s"
        case dict():
            return ", ".join(f"{name} {value_text(one)}" for name, one in value.items())
        case int():
            return f"{value:,}"
        case _:
            return printable(str(value))
