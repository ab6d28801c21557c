"""The form that sets and clears limits, caps, throttles, weights, plans and pauses."""

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from domain.language import validation
from domain.language.commands import ChangeLimit
from domain.language.errors import InvalidInput
from domain.language.validation import LIMIT_MAX
from domain.limits.limits import subject_of
from entrypoints.dashboard.actions import require_own_page
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.rendering import html, render
from entrypoints.http.access import sent_by
from entrypoints.http.limit_requests import (
    LimitChange,
    RateFields,
    StartLimitChange,
    parse_rate,
)
from entrypoints.http.strict_request import StrictRequest

T = TypeVar("T")

Form = Annotated[dict[str, Any], Body(media_type=RequestEncodingType.URL_ENCODED)]

PAUSE: Final = LimitChange(paused=True)
RESUME: Final = LimitChange(paused=None)
CLEAR: Final = LimitChange(
    limit=None,
    running=None,
    windows=None,
    throttle=None,
    weight=None,
    plan=None,
    paused=None,
    max_attempts=None,
    priority_max=None,
)


@post("/limits/change", status_code=HTTP_200_OK)
async def change_limits(
    request: StrictRequest, data: Form, context: NamedDependency[DashboardContext]
) -> Response[str]:
    """Change the limits of one subject, as one event."""
    require_own_page(request)
    form = {name: str(value).strip() for name, value in data.items()}
    command = to_command(form)
    if form.get("action") == "resume":
        command = await _without_zero_cap(context, command)
    await context.fairlog.change_limit(sent_by(request, command))
    position = await context.fairlog.log_watcher.read_position()
    return html(
        render(request, "limit_outcome.html", command=command, UNSET=UNSET),
        headers={"X-Fairlog-Position": str(position)},
    )


def to_command(form: dict[str, str]) -> ChangeLimit:
    """Return the change that the form's fields ask for. An empty field stays as it is, and
    `default` removes what is set.

    `action` is set, pause (no job starts), resume or clear (the defaults again). `name` is a user,
    and `kind` one of the user's kinds, for the scope user_kind. Raises `InvalidInput`.
    """
    scope, name = form.get("scope", ""), form.get("name", "")
    match form.get("action", "set"):
        case "set":
            change = LimitChange(
                limit=_value(form, "limit", lambda text: _number(text, "limit")),
                windows=_value(form, "windows", lambda text: [*map(_rate, text.split())]),
                running=_value(form, "running", lambda text: _number(text, "running")),
                throttle=_value(form, "throttle", _rate),
                weight=_value(form, "weight", _weight),
                plan=_value(form, "plan", str),
            )
            if change == LimitChange():
                raise InvalidInput("Enter what to set, such as a number of running jobs.")
        case "pause":
            change = PAUSE
        case "resume":
            change = RESUME
        case "clear":
            change = CLEAR
        case other:
            raise InvalidInput(f"There is no action {other!r}; set, pause, resume and clear exist.")
    match scope:
        case "user":
            return change.of_user(validation.user_id(name))
        case "kind" | "resource" | "user_kind":
            return _of_starts(change, scope, name, form.get("kind", ""))
        case "plan" if change is not CLEAR:
            return change.of_plan(validation.plan_name(name))
        case "all" | "global":
            if change is CLEAR:
                change = LimitChange(limit=None, windows=None, paused=None)
            return change.of_all()
        case _:
            raise InvalidInput(
                "Choose a user, a kind, a resource, a plan or all users together. What is set for "
                "a plan is cleared value by value, with `default`; a plan is deleted with "
                "`fairlog plans delete`."
            )


def _of_starts(change: LimitChange, scope: str, name: str, kind: str) -> ChangeLimit:
    """Return the change of what has limits of starts alone. `kind` is the user's."""
    if any(isinstance(getattr(change, name), int | float | str | list) for name in _OF_USERS):
        raise InvalidInput(
            f"A {'resource' if scope == 'resource' else 'kind'} has no limit of submissions, "
            "weight or plan; set how many of its jobs may run, or a throttle."
        )
    starts = StartLimitChange(
        running=change.running, throttle=change.throttle, paused=change.paused
    )
    if scope == "kind":
        return starts.of_kind(validation.kind(name))
    if scope == "resource":
        return starts.of_resource(validation.resource_setting(name))
    return starts.of_user_kind(validation.user_id(name), validation.kind(kind))


async def _without_zero_cap(context: DashboardContext, command: ChangeLimit) -> ChangeLimit:
    """Return the command of a resume, which takes away a cap of 0 running jobs too."""
    subject = subject_of(command)
    settings = await context.fairlog.read(
        context.fairlog.with_saved_rows(
            lambda connection: context.fairlog.windows.of_subjects(connection, [subject])
        )
    )
    return replace(command, running=None) if settings.of(subject).running == 0 else command


_OF_USERS: Final = ("limit", "windows", "weight", "plan")


def _value(form: dict[str, str], name: str, parse: Callable[[str], T]) -> T | UnsetType | None:
    """Return the value of a field: UNSET if it is empty, None for the default again."""
    text = form.get(name, "")
    if not text:
        return UNSET
    return None if text == "default" else parse(text)


def _number(text: str, name: str) -> int:
    what = "A limit of submissions" if name == "limit" else "A number of running jobs"
    return validation.whole_number(text, what, 0, LIMIT_MAX)


def _rate(text: str) -> RateFields:
    try:
        return parse_rate(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no limit and length of time, like 5/1s or 1000/1h."
        ) from None


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"A weight is a number from 0.01 to 1000, not {text!r}.") from None
