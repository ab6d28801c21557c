"""Requests that a page of another site has its visitor's browser send."""

from collections.abc import Mapping
from typing import Final

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN: Final = frozenset({b"same-origin", b"none"})


def acts_for_another_site(method: str, fields: Mapping[bytes, bytes]) -> bool:
    """Return True where a page of another site would act, and not merely be shown something.

    Browsers say where a request comes from (Fetch Metadata; older ones and plain HTTP: Origin);
    other clients say nothing, and are nobody's browser. `fields` are the request's header fields.
    """
    if method in _READING:
        return False
    site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
    if site is not None:
        return site not in _OWN
    return origin is not None and _host(origin) != fields.get(b"host")


def _host(origin: bytes) -> bytes:
    """Return what stands behind the scheme."""
    return origin.rpartition(b"://")[2]
