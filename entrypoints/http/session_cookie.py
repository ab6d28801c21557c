"""The cookie of a dashboard session.

Over HTTPS its name has the prefix `__Host-` (RFC 6265bis): a browser accepts such a cookie only
from this very host, so that no other host of the domain can plant one.
"""

import re
from typing import Any, Final

from adapters.servers.dashboard_sessions import LIFETIME_SECONDS

_NAME: Final = "fairlog_session"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_AUTOMATIC: Final = frozenset({"/pulse", "/charts.json", "/v1/stream"})


def token_of(scope: Any) -> str | None:  # noqa: ANN401 (ASGI's shape)
    """Return the token that a request sends; None if it sends none, or several."""
    wanted = _name(scope)
    found = [
        value.strip()
        for field, values in scope["headers"]
        if field == b"cookie"
        for name, _, value in (one.partition("=") for one in values.decode("latin-1").split(";"))
        if name.strip() == wanted
    ]
    return found[0] if len(found) == 1 and _TOKEN.fullmatch(found[0]) else None


def cookie_of(scope: Any, token: str) -> str:  # noqa: ANN401 (ASGI's shape)
    """Return the Set-Cookie field that begins a session."""
    return f"{_name(scope)}={token}; Max-Age={LIFETIME_SECONDS}{_attributes(scope)}"


def no_cookie(scope: Any) -> str:  # noqa: ANN401 (ASGI's shape)
    """Return the Set-Cookie field that has a browser delete the cookie."""
    return f"{_name(scope)}=; Max-Age=0{_attributes(scope)}"


def is_use(scope: Any) -> bool:  # noqa: ANN401 (ASGI's shape)
    """Return True unless an open page sends the request by itself."""
    return scope["path_template"] not in _AUTOMATIC and not any(
        name == b"x-fairlog-refresh" for name, _ in scope["headers"]
    )


def _name(scope: Any) -> str:  # noqa: ANN401 (ASGI's shape)
    return f"__Host-{_NAME}" if scope["scheme"] == "https" else _NAME


def _attributes(scope: Any) -> str:  # noqa: ANN401 (ASGI's shape)
    return "; Path=/; HttpOnly; SameSite=Strict" + (
        "; Secure" if scope["scheme"] == "https" else ""
    )
