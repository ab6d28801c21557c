"""The dashboard's routes, and their common headers and error pages."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response, Router
from litestar.di import Provide
from litestar.response import Redirect
from litestar.status_codes import HTTP_303_SEE_OTHER

from domain.language.errors import KeyNotValid
from entrypoints.dashboard.actions import cancel, retry, retry_matching
from entrypoints.dashboard.assets import assets
from entrypoints.dashboard.audit import audit, system_state
from entrypoints.dashboard.callbacks import callbacks
from entrypoints.dashboard.charts import charts
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.fairness import fairness
from entrypoints.dashboard.job import body, job
from entrypoints.dashboard.jobs import find, jobs
from entrypoints.dashboard.limit_form import change_limits
from entrypoints.dashboard.limits import limits
from entrypoints.dashboard.live_updates import live_updates
from entrypoints.dashboard.login import login, login_page, logout
from entrypoints.dashboard.overview import overview
from entrypoints.dashboard.rendering import (
    ERROR,
    SECURITY_HEADERS,
    html,
    is_from_page,
    page,
    render,
)
from entrypoints.dashboard.schedules import schedules
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.problems import answer_error
from entrypoints.http.query import HAS_FORMS
from entrypoints.http.wrong_keys import WrongKeys
from entrypoints.service.fairlog import Fairlog

_ADVICE = {
    HTTPStatus.NOT_FOUND: "Check the id, or search among all jobs.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The page tries again by itself as soon as events come.",
}


def dashboard(fairlog: Fairlog, wrong_keys: WrongKeys) -> list[Router]:
    context = DashboardContext(fairlog, wrong_keys)
    pages = Router(
        path="/",
        route_handlers=[
            login_page,
            login,
            logout,
            overview,
            charts,
            fairness,
            limits,
            change_limits,
            schedules,
            callbacks,
            jobs,
            find,
            job,
            body,
            cancel,
            retry,
            retry_matching,
            audit,
            system_state,
            live_updates,
        ],
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        exception_handlers={Exception: _answer_error},
        response_headers=SECURITY_HEADERS,
        include_in_schema=False,
        opt={HAS_FORMS: True},
    )
    return [pages, assets()]


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Render the problem that the HTTP interface would answer as a page.

    A browser without a session is sent to the login.
    """
    if isinstance(error, KeyNotValid) and _authorization_is_missing(request):
        return _to_login(request)
    answered = answer_error(request, error)
    problem = answered.content
    status = HTTPStatus(problem["status"])
    live = render(
        request,
        ERROR,
        title=status.phrase,
        detail=problem["detail"],
        advice=_ADVICE.get(status, ""),
    )
    answer = page(request, "error", live, title=status.phrase, status=status)
    for name, value in {**answered.headers, **SECURITY_HEADERS}.items():
        answer.headers[name] = value
    return answer


def _authorization_is_missing(request: Request[Any, Any, Any]) -> bool:
    """Return True if a browser asks, which can log in, and not a program with a wrong key."""
    headers = request.headers
    return "authorization" not in headers and (
        is_from_page(request) or "text/html" in headers.get("accept", "")
    )


def _to_login(request: Request[Any, Any, Any]) -> Response[Any]:
    path = f"{prefix_of(request.scope)}/login"
    if is_from_page(request):  # htmx follows redirects without changing the page
        return html(
            "", HTTPStatus.UNAUTHORIZED, {"HX-Redirect": path, "WWW-Authenticate": "Bearer"}
        )
    query = request.scope["query_string"].decode("latin-1")
    here = request.scope["path"] + (f"?{query}" if query else "")
    return Redirect(f"{path}?{urlencode({'to': here})}", status_code=HTTP_303_SEE_OTHER)
