"""The API's reference, for people: the page that a browser gets at /schema.

Programs get the OpenAPI document there. The page works offline: its script and styles are files of
this server.
"""

from http import HTTPMethod
from typing import Any, Final

from litestar import Request, Response

from entrypoints.dashboard.rendering import SECURITY_HEADERS, html, render

_PATHS: Final = frozenset({"/schema", "/schema/"})
_DOCUMENT: Final = "/schema/openapi.json"


def reference_page(request: Request[Any, Any, Any]) -> Response[str] | None:
    """Return the page if a browser asks for it; None for any other request."""
    scope = request.scope
    if scope["path"] not in _PATHS or scope["method"] not in {HTTPMethod.GET, HTTPMethod.HEAD}:
        return None
    if "text/html" not in request.headers.get("accept", ""):
        return None
    answer = html(render(request, "reference.html", document=_DOCUMENT))
    for name, value in {**SECURITY_HEADERS, "Vary": "Accept"}.items():
        answer.headers[name] = value
    return answer
