"""The context of all views: the service, the queries of the dashboard alone, and the answers that
all open dashboards share.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from litestar import Response
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.language.identifiers import UserId
from domain.language.moments import to_micros
from entrypoints.dashboard.refresh_ticker import RefreshTicker
from entrypoints.dashboard.rendering import AnyRequest, audience_of, page, position_seen, render
from entrypoints.dashboard.shared_answers import Dated, SharedAnswers
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.wrong_keys import WrongKeys
from entrypoints.service.fairlog import Fairlog
from projections.activity.queries import ActivityQueries
from projections.queries.job_search import JobSearch
from projections.queries.oldest_waiting import OldestWaiting
from projections.storage import registry

HOUR_SECONDS: Final = 3600


class ShownMoment(Struct, frozen=True):
    """The moment at which a view was read."""

    position: int  # of the latest event
    now: datetime  # UTC, by the log's clock

    @property
    def seconds(self) -> int:
        return to_micros(self.now) // 1_000_000


class DashboardContext:
    """One per process."""

    def __init__(self, fairlog: Fairlog, wrong_keys: WrongKeys) -> None:
        self.fairlog = fairlog
        self.wrong_keys = wrong_keys
        self.activity = ActivityQueries(registry.current("activity"))
        self.front = OldestWaiting(registry.current("line"), registry.current("jobs"))
        self.search = JobSearch(registry.current("jobs"))
        self.ticker = RefreshTicker(fairlog.log_watcher, fairlog.supervisor.part("dashboard"))
        self._shared: SharedAnswers[str] = SharedAnswers(lambda: self.ticker.ticks)

    async def show(
        self,
        request: AnyRequest,
        view: str,
        title: str,
        read: Callable[[Connection, ShownMoment], dict[str, object]],
        *,
        is_long: bool = False,
        **around: object,
    ) -> Response[str]:
        """Render a view whose live part is `<view>.html`, filled with what `read` returns.

        `is_long`: reading may take long, see `entrypoints.service.long_reads`. `around` has the
        template variables of the page's static part.
        """
        live = await self.answer(
            request,
            lambda connection, at: render(request, f"{view}.html", at=at, **read(connection, at)),
            is_long=is_long,
        )
        return page(request, view, live, title=title, around=around)

    async def answer(
        self,
        request: AnyRequest,
        make: Callable[[Connection, ShownMoment], str],
        *,
        is_long: bool = False,
    ) -> str:
        """Return the answer for the request's URL, shared by all who may see the same."""

        def query(connection: Connection) -> Dated[str]:
            log = self.fairlog.log
            at = ShownMoment(log.position(connection), log.now(connection))
            return Dated(at.position, make(connection, at))

        path = f"{prefix_of(request.scope)}{request.url.path}"
        key = f"{audience_of(request)}\n{path}?{request.url.query}"
        saved = self.fairlog.with_saved_rows(query)
        ask = self.fairlog.read_long if is_long else self.fairlog.read
        return await self._shared.get(key, position_seen(request), lambda: ask(saved))

    def waits(
        self, connection: Connection, users: list[UserId], at: ShownMoment
    ) -> dict[UserId, float]:
        """Return how long each user's next job has waited, in seconds."""
        oldest = self.front.oldest_of(connection, users)
        times = audit_log.times_at(connection, list(oldest.values()))
        return {
            user_id: (at.now - times[job_id]).total_seconds()
            for user_id, job_id in oldest.items()
            if job_id in times
        }
