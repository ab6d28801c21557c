"""Render templates: a whole page, or its live part alone for a page that refreshes it."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Request, Response

from domain.access.rights import Right
from domain.language.moments import from_micros
from entrypoints.dashboard import formatting
from entrypoints.dashboard.assets import static_path
from entrypoints.http.access import access_of
from entrypoints.http.forwarding import prefix_of
from entrypoints.runtime.text import size_of, visible
from entrypoints.service.key_ring import Access

# Only our own files: nothing from other hosts, and no inline scripts or styles.
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
VIEWS: Final = (
    ("overview", "/", "Overview"),
    ("fairness", "/fairness", "Fairness"),
    ("limits", "/limits", "Limits"),
    ("schedules", "/schedules", "Schedules"),
    ("callbacks", "/callbacks", "Callbacks"),
    ("jobs", "/jobs", "Jobs"),
    ("audit", "/audit", "Audit"),
)
_VIEWS_OF_OWN_JOBS: Final = frozenset({"schedules", "jobs", "audit"})
ERROR: Final = "error.html"
THEMES: Final = ("auto", "light", "dark")

AnyRequest = Request[Any, Any, Any]


@lru_cache(maxsize=8)
def _environment(root: str) -> Environment:
    """Return the templates for pages whose paths have a prefix, `root`; see `prefix_of`."""
    environment = Environment(
        loader=PackageLoader("entrypoints.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": size_of,
        "count": formatting.count,
        "duration": formatting.duration,
        "exact": formatting.exact,
        "rate": formatting.rate,
        "visible": visible,
    }
    environment.globals |= {
        "counted": formatting.counted,
        "age": formatting.age,
        "seconds_between": formatting.seconds_between,
        "share": formatting.share,
        "static": static_path(),
        "views_of": views_of,
        "themes": THEMES,
        "query": query,
        "root": root,
        "from_micros": from_micros,
    }
    for name in (ERROR, "page.html"):  # needed even when no more files can be opened
        environment.get_template(name)
    return environment


def render(request: AnyRequest, template: str, **context: object) -> str:
    environment = _environment(prefix_of(request.scope))
    access = access_of(request)
    return environment.get_template(template).render(
        {
            "access": access,
            "may_change": may_change(access),
            "may_operate": may_operate(access),
            **context,
        }
    )


def views_of(access: Access | None) -> Sequence[tuple[str, str, str]]:
    """Return the views that the caller's key may see: all, or those of its own jobs alone."""
    if access is None or Right.READ_ALL in access.key.rights:
        return VIEWS
    return [view for view in VIEWS if view[0] in _VIEWS_OF_OWN_JOBS]


def may_change(access: Access | None) -> bool:
    """Return True if the caller may cancel and retry the jobs that it sees."""
    return access is None or Right.CHANGE_JOBS in access.key.rights


def may_operate(access: Access | None) -> bool:
    """Return True if the caller may change limits, and retry all jobs that match."""
    return access is None or Right.OPERATE in access.key.rights


def audience_of(request: AnyRequest) -> str:
    """Return what tells apart the callers who get different answers to the same request.

    Those who see everything share answers with those who may change the same. The others have
    answers of their own: the name of a key means the same for ever.
    """
    access = access_of(request)
    if access is None or Right.READ_ALL in access.key.rights:
        return f"all {may_change(access)} {may_operate(access)}"
    return f"key {access.key.name}"


def query(**parameters: object) -> str:
    """Return `?a=1&b=2` of the parameters that are set; empty if none is."""
    given = {name: value for name, value in parameters.items() if value not in (None, "", [])}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def page(
    request: AnyRequest,
    view: str,
    live: str,
    *,
    title: str,
    status: int = 200,
    around: Mapping[str, object] | None = None,
) -> Response[str]:
    """Render the page around its live part; only the live part for a page that refreshes it."""
    if is_from_page(request):
        return html(live, status)
    theme = request.cookies.get("theme", "auto")
    return html(
        render(
            request,
            "page.html",
            view=view,
            live=live,
            title=title,
            theme=theme if theme in THEMES else "auto",
            **(around or {}),
        ),
        status,
    )


def html(content: str, status: int = 200, headers: dict[str, str] | None = None) -> Response[str]:
    return Response(content, status_code=status, media_type="text/html", headers=headers)


def is_from_page(request: AnyRequest) -> bool:
    """Return True for a request of our own script. No other site can send this header here."""
    return request.headers.get("HX-Request") == "true"


def position_seen(request: AnyRequest) -> int:
    """Return the position of the latest event that the page has seen; 0 if it names none."""
    header = request.headers.get("X-Fairlog-Position", "")
    return int(header) if header.isascii() and header.isdigit() and len(header) < 19 else 0  # noqa: PLR2004
