"""Login with an API key, and logout."""

import re
from typing import Annotated, Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.params import Body, FromQuery
from litestar.response import Redirect
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_303_SEE_OTHER,
    HTTP_400_BAD_REQUEST,
    HTTP_401_UNAUTHORIZED,
    HTTP_403_FORBIDDEN,
    HTTP_429_TOO_MANY_REQUESTS,
)

from domain.access.rights import Right
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.rendering import html, render
from entrypoints.http.forwarding import client_of, prefix_of
from entrypoints.http.session_cookie import cookie_of, no_cookie, token_of
from entrypoints.http.wrong_keys import TooManyWrongKeys

FORM_BYTES_MAX: Final = 4096
_OWN_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~-][A-Za-z0-9/._~-]*)?(?:\?[A-Za-z0-9=&%+._~-]*)?")

Form = Annotated[dict[str, Any], Body(media_type=RequestEncodingType.URL_ENCODED)]
AnyRequest = Request[Any, Any, Any]


@get("/login")
async def login_page(
    request: AnyRequest,
    context: NamedDependency[DashboardContext],
    to: FromQuery[str] = "",
) -> Response[Any]:
    """Show the form. `to` is the page that was asked for."""
    await context.fairlog.key_ring.require_current()
    if not context.fairlog.key_ring.are_required:
        return _redirect(request, "/")
    return _form(request, to)


@post("/login", status_code=HTTP_200_OK, request_max_body_size=FORM_BYTES_MAX)
async def login(
    request: AnyRequest, data: Form, context: NamedDependency[DashboardContext]
) -> Response[Any]:
    """Begin a session, and end the one that the browser had.

    The session's token is always a new one, so that nobody can have planted it.
    """
    fairlog = context.fairlog
    secret, to = str(data.get("key", "")).strip(), str(data.get("to", ""))
    if not secret:
        return _form(request, to, "Enter an API key.", HTTP_400_BAD_REQUEST)
    await fairlog.key_ring.require_current()
    access = await fairlog.key_ring.recognize(secret)
    if access is None:
        try:
            context.wrong_keys.refused(client_of(request.scope) or "", fairlog.key_ring.now)
        except TooManyWrongKeys as error:
            answer = _form(request, to, str(error), HTTP_429_TOO_MANY_REQUESTS)
            answer.headers["Retry-After"] = str(int(error.seconds) + 1)
            return answer
        return _form(
            request, to, "The key is unknown, mistyped, expired or revoked.", HTTP_401_UNAUTHORIZED
        )
    if Right.READ not in access.key.rights:
        return _form(
            request,
            to,
            f"A key with the role {access.key.role.value} cannot look at anything.",
            HTTP_403_FORBIDDEN,
        )
    if earlier := token_of(request.scope):
        await fairlog.sessions.end(earlier)
    token = await fairlog.sessions.start(access.caller)
    answer = _redirect(request, to if _OWN_PATH.fullmatch(to) else "/")
    answer.headers["Set-Cookie"] = cookie_of(request.scope, token)
    return answer


@post("/logout", status_code=HTTP_200_OK)
async def logout(request: AnyRequest, context: NamedDependency[DashboardContext]) -> Response[Any]:
    """End the session on all servers."""
    if token := token_of(request.scope):
        await context.fairlog.sessions.end(token)
    answer = _redirect(request, "/login")
    answer.headers["Set-Cookie"] = no_cookie(request.scope)
    answer.headers["Clear-Site-Data"] = '"cache"'
    return answer


def _redirect(request: AnyRequest, path: str) -> Response[Any]:
    return Redirect(f"{prefix_of(request.scope)}{path}", status_code=HTTP_303_SEE_OTHER)


def _form(
    request: AnyRequest, to: str, problem: str = "", status: int = HTTP_200_OK
) -> Response[Any]:
    answer = html(render(request, "login.html", to=to, problem=problem), status)
    if status == HTTP_401_UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
