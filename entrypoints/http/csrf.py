"""Detection of cross-site request forgery: a page of another site lets a browser send a request."""

from collections.abc import Mapping
from typing import Any, Final

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})


def acts_for_another_site(method: str, scheme: str, fields: Mapping[bytes, bytes]) -> bool:
    """Return True if a browser sends the request for a page of another site, unless it only reads.

    Browsers send the header Sec-Fetch-Site (W3C Fetch Metadata); older browsers, and all over plain
    HTTP, send Origin. A client that sends neither is not a browser. `fields` are the request's
    header fields by lower-case name.
    """
    if method in _SAFE_METHODS:
        return False
    site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
    if site is not None:
        return site not in _OWN_SITES
    if origin is None:
        return False
    own_scheme, _, host = origin.rpartition(b"://")
    # A page over plain HTTP may be forged on its way. The reverse is a proxy that is not trusted.
    return host != fields.get(b"host") or (scheme == "https" and own_scheme != b"https")


def is_from_own_page(scope: Any) -> bool:  # noqa: ANN401 (ASGI's shape)
    """Return True if a browser says that a page of this server sends the request."""
    fields = dict(scope["headers"])
    site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
    if site is not None:
        return bool(site == b"same-origin")
    return origin is not None and not acts_for_another_site("POST", scope["scheme"], fields)
