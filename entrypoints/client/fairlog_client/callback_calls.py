"""The calls about callback endpoints."""

from collections.abc import Sequence
from typing import Final

import msgspec

from fairlog_client.answers import Callback, Callbacks
from fairlog_client.errors import InvalidArguments
from fairlog_client.flows import Flow, Request, Retries, answer_of, answered

OVERLAP_SECONDS: Final = 86_400.0  # a day


class CallbackCalls:
    """The calls about callback endpoints, which are told the ends of jobs."""

    retries: Retries

    def callbacks(self) -> Flow[list[Callback]]:
        """Return all endpoints by name; there are at most 50."""
        request = Request(method="GET", path="/v1/callbacks")
        return (yield from answer_of(request, self.retries, Callbacks)).callbacks

    def callback(self, name: str) -> Flow[Callback]:
        """Return an endpoint. Raises `NotFound`."""
        request = Request(method="GET", path=_path(name))
        return (yield from answer_of(request, self.retries, Callback))

    def set_callback(
        self, name: str, url: str, *, kinds: Sequence[str] = (), users: Sequence[str] = ()
    ) -> Flow[Callback]:
        """Make an endpoint, or replace it. Equal to what is set, it changes nothing.

        It is told the ends of jobs of these kinds and users; empty: of any. Raises
        `InvalidRequest`.
        """
        content = msgspec.json.encode({"url": url, "kinds": list(kinds), "users": list(users)})
        request = Request(method="PUT", path=_path(name), content=content)
        return (yield from answer_of(request, self.retries, Callback))

    def delete_callback(self, name: str) -> Flow[None]:
        """Delete an endpoint; deliveries to it that wait fail. Raises `NotFound`."""
        request = Request(method="DELETE", path=_path(name), is_repeatable=False)
        yield from answered(request, self.retries)

    def rotate_callback_secret(
        self, name: str, *, overlap_seconds: float = OVERLAP_SECONDS
    ) -> Flow[Callback]:
        """Give an endpoint a new secret, or with the name `default` the URLs that come with jobs.

        The secret before it signs, too, for `overlap_seconds` (0 to 366 days). Raises `NotFound`,
        `InvalidRequest`.
        """
        content = msgspec.json.encode({"overlap_seconds": overlap_seconds})
        path = f"{_path(name)}/rotate"
        request = Request(method="POST", path=path, content=content, is_repeatable=False)
        return (yield from answer_of(request, self.retries, Callback))


def _path(name: str) -> str:
    if not name or "/" in name:
        raise InvalidArguments("The name of a callback endpoint is letters, digits, ., _ and -.")
    return f"/v1/callbacks/{name}"
