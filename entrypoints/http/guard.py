"""What every request must pass before a route sees it."""

from collections.abc import Iterable
from typing import Any, Final

from litestar import Request
from litestar.exceptions import PermissionDeniedException

from entrypoints.http.query import check_query
from entrypoints.http.reading import refuse_invalid_utf8

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN: Final = frozenset({b"same-origin", b"none"})


async def guard(request: Request[Any, Any, Any]) -> None:
    """Raises `InvalidInput`, or an HTTP 403."""
    refuse_invalid_utf8(request)
    check_query(request)
    if request.scope["method"] not in _READING:
        _refuse_other_sites(request.scope["headers"])


def _refuse_other_sites(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """A page of another site must not act through the browser of somebody who may come in here.

    Browsers say where a request comes from (Fetch Metadata; older ones and plain HTTP: Origin);
    other clients say nothing, and are nobody's browser.
    """
    sent = dict(headers)
    site = sent.get(b"sec-fetch-site")
    origin = sent.get(b"origin")
    if site is None and origin is None:
        return
    is_own = site in _OWN if site is not None else _host(origin) == sent.get(b"host")
    if not is_own:
        raise PermissionDeniedException(
            "A page of another site may not act here; send the request from your own program."
        )


def _host(origin: bytes | None) -> bytes | None:
    """What stands behind the scheme."""
    return None if origin is None else origin.rpartition(b"://")[2]
