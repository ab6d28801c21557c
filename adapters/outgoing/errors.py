"""Errors of sending a request.

A message may be stored in a job's error: it names the origin of the URL, never its path, query or
headers, nor the address that a name resolves to.

    SendError
    ├── AddressRefused   nothing was sent, since the rules refuse the address or the URL
    ├── Redirected       the answer was a redirect
    └── NoAnswer         no complete answer came: not resolved, not connected, broken, too slow
"""


class SendError(Exception):
    """A request got no answer that counts."""


class AddressRefused(SendError):
    """The rules refuse where the request would go. Trying again helps only if that changes."""


class Redirected(SendError):
    """The answer was a redirect, which is not followed: nobody has checked where it leads."""


class NoAnswer(SendError):
    """No complete answer came in time. The receiver may have the request nevertheless."""
