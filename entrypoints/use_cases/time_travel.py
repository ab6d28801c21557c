"""The state of jobs and of the system at a position of the log or at a time, by the usual folds.

A time means the position of the last event recorded by then. The future is refused, since an answer
could turn out wrong.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final

from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.archived import absence
from adapters.log.audit_log import EventFilter
from domain.access.keys import ApiKey
from domain.audit.system_state import SystemState, line_in_order
from domain.jobs.history import jobs_of, with_heartbeats
from domain.jobs.job import Job, State
from domain.language.errors import EventsArchived, InvalidInput, UnknownJob
from domain.language.identifiers import JobId, UserId
from domain.language.policy import Policy
from entrypoints.service.callbacks import views_of
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.key_views import KeyView, key_views
from entrypoints.service.past_views import PastStateView, limit_view
from entrypoints.service.queries import FRONT_OF_LINE, KINDS_SHOWN_MAX
from entrypoints.service.schedule_views import past_schedule_view
from entrypoints.service.views import (
    JobView,
    KindView,
    LineView,
    TurnView,
    window_view,
)
from entrypoints.use_cases.jobs_today import jobs_today
from entrypoints.use_cases.past_policy import policy_then
from projections.following.snapshots import current, state_at
from projections.rebuild.cut_rows import cut_jobs

JOBS_SHOWN_MAX: Final = 1000
LIMITS_SHOWN_MAX: Final = 1000
SCHEDULES_SHOWN_MAX: Final = 1000
_MICROSECOND: Final = timedelta(microseconds=1)


class TimeTravel:
    """Queries of the past, on a connection of the caller's."""

    def __init__(self, fairlog: Fairlog) -> None:
        self._fairlog = fairlog
        self._log = fairlog.past

    def position(self, connection: Connection, as_of: int | datetime) -> int:
        """Return the position that `as_of` means. Raises `InvalidInput` for the future."""
        log = self._fairlog.log
        cut = self._log.cut(connection).position
        if isinstance(as_of, int):
            if as_of > (end := log.position(connection)):
                raise InvalidInput(f"as_of: the log ends at position {end}.")
            position = as_of
            is_archived = position < cut
        else:
            if as_of > log.now(connection):
                raise InvalidInput("as_of: that time is in the future.")
            position = self._log.first_at(connection, as_of + _MICROSECOND) - 1
            is_archived = position == cut > 0 and audit_log.is_before_cut(connection, as_of)
        if is_archived:
            raise EventsArchived(cut)
        return position

    def job(
        self,
        connection: Connection,
        job_id: JobId,
        as_of: int | datetime,
        seen_by: ApiKey | None = None,
    ) -> JobView:
        """Return a job with its bodies. Raises `UnknownJob` if it did not exist then, or if the key
        may not see it.
        """
        if seen_by is not None:
            today = self._today(connection, [job_id]).get(job_id)
            if today is None or not seen_by.is_for(today.user_id, today.kind):
                raise UnknownJob(job_id)
        found = self.job_at(connection, job_id, self.position(connection, as_of))
        return self._views(connection, [found])[0]

    def job_at(self, connection: Connection, job_id: JobId, position: int) -> Job:
        """Return a job. Raises `UnknownJob` if it did not exist then."""
        found = self.jobs(connection, [job_id], position)
        if not found:
            today = self._today(connection, [job_id]).get(job_id)
            if today is None:
                raise absence(connection, job_id)
            raise UnknownJob(job_id, today.submitted_at)
        return found[0]

    def jobs_of_user(
        self, connection: Connection, user_id: UserId, as_of: int | datetime, limit: int
    ) -> list[Job]:
        """Return up to `limit` jobs of a user, newest first; `view` adds the bodies of one."""
        position = self.position(connection, as_of)
        wanted = EventFilter(user_id=user_id, types=["JobSubmitted"])
        submissions = self._log.find_newest(connection, wanted, position + 1, limit)
        ids = [JobId(event.position) for event in submissions]
        return self.jobs(connection, ids, position)

    def view(self, connection: Connection, job: Job) -> JobView:
        """Return a job of the past with its bodies, unless they were erased since."""
        return self._views(connection, [job])[0]

    def _views(self, connection: Connection, jobs: list[Job]) -> list[JobView]:
        """Return jobs with their bodies, unless they were erased since."""
        today = self._today(connection, [job.id for job in jobs])
        erased = {job.id for job in today.values() if job.erased_at is not None}
        views = self._fairlog.views(connection, jobs, erased)
        for view in views:
            if view.id in erased:
                view.erased = True
        return views

    def _today(self, connection: Connection, job_ids: list[JobId]) -> Mapping[JobId, Job]:
        return jobs_today(self._fairlog, connection, job_ids)

    def jobs(self, connection: Connection, job_ids: list[JobId], position: int) -> list[Job]:
        """Return those of the jobs that existed at a position."""
        before = cut_jobs(self._fairlog.log, connection, self._log.cut(connection), job_ids)
        jobs = jobs_of(self._log.changes_of(connection, job_ids, position), before)
        return [
            with_heartbeats(job, self._log.heartbeats(connection, job.id, position))
            for job_id in job_ids
            if (job := jobs.get(job_id)) is not None
        ]

    def state(self, connection: Connection, as_of: int | datetime) -> PastStateView:
        """Return the counts of jobs, the line, and what was set. Raises `InvalidInput`."""
        position = self.position(connection, as_of)
        log = self._log
        state = state_at(connection, current(), log.read, position, log.state_by(position))
        now = as_of if isinstance(as_of, datetime) else state.recorded_at
        policy = policy_then(self._fairlog, connection, state)
        keys = key_views(self._log.keys_at(connection, position), now)
        return state_view(state, policy, now, [key for key in keys if key.valid])


def state_view(
    state: SystemState, policy: Policy, now: datetime, keys: Sequence[KeyView] = ()
) -> PastStateView:
    """Return a state of the system as it is shown; `now` is the time of its window, and `keys` are
    the API keys that were valid.
    """
    line, limits = state.line, state.limits
    found = sorted(limits.all_set(), key=itemgetter(0))
    schedules = state.schedules.in_order()
    return PastStateView(
        position=state.position,
        recorded_at=state.recorded_at,
        jobs=state.jobs,
        total=sum(state.jobs.values()),
        line=LineView(
            state.jobs[State.QUEUED],
            [
                KindView(kind, load.waiting, load.running, limits.of_kind(kind).running)
                for kind, load in sorted(line.kinds.items())[:KINDS_SHOWN_MAX]
            ],
            [
                TurnView(user_id, user.turn or 0, user.last_served, user.waiting, user.running)
                for user_id, user in line_in_order(state)[:FRONT_OF_LINE]
            ],
        ),
        limits=[limit_view(subject, one) for subject, one in found[:LIMITS_SHOWN_MAX]],
        limits_total=len(found),
        schedules=[past_schedule_view(one) for one in schedules[:SCHEDULES_SHOWN_MAX]],
        schedules_total=len(schedules),
        callbacks=views_of(state.callbacks.rows),
        keys=keys,
        global_=window_view(
            state.windows.global_window(limits, policy, now), limits.everyone.running
        ),
    )
