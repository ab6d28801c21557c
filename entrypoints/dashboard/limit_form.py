"""The form that sets and clears limits, caps and pauses."""

from typing import Annotated, Any, Final

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, UnsetType

from domain.language import validation
from domain.language.commands import ChangeLimit
from domain.language.errors import InvalidInput
from domain.language.validation import LIMIT_MAX
from entrypoints.dashboard.actions import require_own_page
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.rendering import html, render
from entrypoints.http.access import sent_by
from entrypoints.http.limit_requests import LimitChange, StartLimitChange
from entrypoints.http.strict_request import StrictRequest

Form = Annotated[dict[str, Any], Body(media_type=RequestEncodingType.URL_ENCODED)]

PAUSE: Final = LimitChange(running=0)
RESUME: Final = LimitChange(running=None)
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
    """Change the limits of a user, a kind or all users together, as one event."""
    require_own_page(request)
    command = to_command({name: str(value).strip() for name, value in data.items()})
    await context.fairlog.change_limit(sent_by(request, command))
    position = await context.fairlog.log_watcher.read_position()
    return html(
        render(request, "limit_outcome.html", command=command, UNSET=UNSET),
        headers={"X-Fairlog-Position": str(position)},
    )


def to_command(form: dict[str, str]) -> ChangeLimit:
    """Return the change that the form's fields ask for; an empty number stays as it is.

    `action` is set, pause (no job may run), resume (no cap) or clear (the defaults again). Raises
    `InvalidInput`.
    """
    scope, name = form.get("scope", ""), form.get("name", "")
    match form.get("action", "set"):
        case "set":
            change = LimitChange(limit=_number(form, "limit"), running=_number(form, "running"))
            if change == LimitChange():
                raise InvalidInput("Enter a number of submissions or of running jobs to set.")
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
        case "kind":
            if isinstance(change.limit, int):
                raise InvalidInput("A kind has no limit of submissions; set how many may run.")
            of_kind = StartLimitChange(
                running=change.running, throttle=change.throttle, paused=change.paused
            )
            return of_kind.of_kind(validation.kind(name))
        case "all":
            if change is CLEAR:
                change = LimitChange(limit=None, windows=None, paused=None)
            return change.of_all()
        case _:
            raise InvalidInput("Choose a user, a kind or all users together.")


def _number(form: dict[str, str], name: str) -> int | UnsetType:
    text = form.get(name, "")
    if not text:
        return UNSET
    what = "A limit of submissions" if name == "limit" else "A number of running jobs"
    return validation.whole_number(text, what, 0, LIMIT_MAX)
