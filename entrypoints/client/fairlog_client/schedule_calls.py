"""The calls about schedules."""

from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from fairlog_client.answers import Schedule, SchedulesPage
from fairlog_client.errors import InvalidArguments
from fairlog_client.flows import Flow, Items, Request, Retries, answer_of, answered, paged
from fairlog_client.submissions import rfc3339


class ScheduleCalls:
    """The calls about schedules: jobs that are submitted again and again."""

    retries: Retries

    def schedules(self) -> Items[Schedule]:
        """Yield all schedules by name, reading them page by page."""
        path = "/v1/schedules"
        yield from paged(path, {}, SchedulesPage, lambda page: page.schedules, self.retries)

    def schedule(self, name: str) -> Flow[Schedule]:
        """Return a schedule. Raises `NotFound`."""
        request = Request(method="GET", path=_path(name))
        return (yield from answer_of(request, self.retries, Schedule))

    def set_schedule(  # noqa: PLR0913 (each is a field of a schedule)
        self,
        name: str,
        *,
        user_id: str,
        kind: str,
        payload: Any = None,  # noqa: ANN401 (any JSON value)
        cron: str | None = None,
        every_seconds: int | None = None,
        time_zone: str = "UTC",
        overlap: str = "skip",
        catch_up_seconds: int = 3_600,
        jitter_seconds: int = 0,
        paused: bool = False,
    ) -> Flow[Schedule]:
        """Make a schedule, or replace it with all of its fields. Equal to what is set, it changes
        nothing.

        Due by `cron` in an IANA `time_zone`, or every `every_seconds`; one of them. `overlap` is
        `skip`, `buffer_one`, `allow_all` or `cancel_other`. Raises `InvalidRequest`.
        """
        content = msgspec.json.encode(
            {
                "user_id": user_id,
                "kind": kind,
                "payload": payload,
                "cron": cron,
                "every_seconds": every_seconds,
                "time_zone": time_zone,
                "overlap": overlap,
                "catch_up_seconds": catch_up_seconds,
                "jitter_seconds": jitter_seconds,
                "paused": paused,
            }
        )
        request = Request(method="PUT", path=_path(name), content=content)
        return (yield from answer_of(request, self.retries, Schedule))

    def delete_schedule(self, name: str) -> Flow[None]:
        """Delete a schedule; its jobs are left alone. Raises `NotFound`."""
        request = Request(method="DELETE", path=_path(name), is_repeatable=False)
        yield from answered(request, self.retries)

    def trigger_schedule(self, name: str) -> Flow[Schedule]:
        """Run a schedule now, by its overlap policy; `run` of the answer says what came of it. It
        is not repeated after a lost connection, since it may have run. Raises `NotFound` and
        `RateLimited`.
        """
        request = Request(method="POST", path=f"{_path(name)}/trigger", is_repeatable=False)
        return (yield from answer_of(request, self.retries, Schedule))

    def backfill_schedule(self, name: str, start: datetime, end: datetime) -> Flow[Schedule]:
        """Run each due time from `start` up to `end`, exclusive, once; at most 1,000. Both need a
        time zone. Raises `NotFound`, `Conflict` while another one goes on, and `Refused`.
        """
        content = msgspec.json.encode(
            {"from": rfc3339(start, "start"), "until": rfc3339(end, "end")}
        )
        request = Request(
            method="POST", path=f"{_path(name)}/backfill", content=content, is_repeatable=False
        )
        return (yield from answer_of(request, self.retries, Schedule))


def _path(name: str) -> str:
    if not name:
        raise InvalidArguments("The name of a schedule is empty.")
    return f"/v1/schedules/{quote(name, safe='')}"
