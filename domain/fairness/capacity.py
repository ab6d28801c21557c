"""Counts how many more jobs one claim may start, by the limits of all that a job belongs to."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from domain.fairness.known_line import WaitingJob
from domain.fairness.line import NO_JOBS, Line, Load
from domain.fairness.queues import QueueName, kind_of, resources_of
from domain.fairness.start_limits import resumes_at, startable
from domain.language.identifiers import Kind, ResourceName, UserId
from domain.limits.limits import NONE, Limits, Subject

S = TypeVar("S", Kind, ResourceName)


class Capacity:
    """The jobs that pauses, caps and throttles leave to a claim, less those that it has started.

    Each number is worked out when it is first asked for; infinite: there is no limit.
    """

    def __init__(self, line: Line, now: int) -> None:
        """`now` is Unix time in microseconds."""
        self._line = line
        self._now = now
        self._kinds: dict[Kind, float] = {}
        self._resources: dict[ResourceName, float] = {}
        self._users: dict[UserId, float] = {}
        self._user_kinds: dict[tuple[UserId, Kind], float] = {}

    def is_open(self, queue: QueueName) -> bool:
        """Return True if a job may start by the limits of the kind and the resources."""
        return self._of_kind(kind_of(queue)) > 0 and all(
            self._of_resource(name) > 0 for name in resources_of(queue)
        )

    def is_unlimited(self, queue: QueueName) -> bool:
        """Return True if the queue stays open, whatever starts."""
        return self._of_kind(kind_of(queue)) == math.inf and all(
            self._of_resource(name) == math.inf for name in resources_of(queue)
        )

    def is_user_kind_open(self, user_id: UserId, kind: Kind) -> bool:
        """Return True if a job may start by the limits of this kind of the user."""
        free = self._user_kinds.get((user_id, kind))
        if free is None:
            limits = self._line.limits.of_user_kind(user_id, kind)
            load = self._line.load_of(user_id, kind)
            free = self._startable(Subject(user_id, kind), limits, load)
            self._user_kinds[user_id, kind] = free
        return free > 0

    def of_user(self, user_id: UserId) -> float:
        """Return how many jobs of a user in memory may start by the limits of the user."""
        free = self._users.get(user_id)
        if free is None:
            user = self._line.users[user_id]
            load = Load(user.waiting, user.running)
            free = self._startable(Subject(user_id), self._line.limits.of_user(user_id), load)
            self._users[user_id] = free
        return free

    def take(self, job: WaitingJob) -> None:
        """Count a job that starts, of which all numbers were asked for."""
        self._users[job.user_id] -= 1
        self._kinds[job.kind] -= 1
        if (job.user_id, job.kind) in self._user_kinds:
            self._user_kinds[job.user_id, job.kind] -= 1
        for resource in job.resources:
            self._resources[resource] -= 1

    def resumes_at(self) -> int | None:
        """Return when more jobs of the kinds and resources that are used up may start because of
        the time; Unix time in microseconds. None: at no time that is known.
        """
        line, limits = self._line, self._line.limits
        times = [
            *self._resumptions(self._kinds, line.kinds, limits.of_kind),
            *self._resumptions(self._resources, line.resources, limits.of_resource),
        ]
        return min(times, default=None)

    def _resumptions(
        self, free: Mapping[S, float], loads: Mapping[S, Load], limits_of: Callable[[S], Limits]
    ) -> Iterator[int]:
        for name, left in free.items():
            load = loads.get(name, NO_JOBS)
            if left <= 0 and load.waiting:
                at = resumes_at(limits_of(name), load.running, self._now)
                if at is not None:
                    yield at

    def _of_kind(self, kind: Kind) -> float:
        free = self._kinds.get(kind)
        if free is None:
            load = self._line.kinds.get(kind, NO_JOBS)
            free = self._startable(Subject(kind=kind), self._line.limits.of_kind(kind), load)
            self._kinds[kind] = free
        return free

    def _of_resource(self, name: ResourceName) -> float:
        free = self._resources.get(name)
        if free is None:
            load = self._line.resources.get(name, NO_JOBS)
            limits = self._line.limits.of_resource(name)
            free = self._startable(Subject(resource=name), limits, load)
            self._resources[name] = free
        return free

    def _startable(self, subject: Subject, limits: Limits, load: Load) -> float:
        if limits is NONE:
            return math.inf
        return startable(limits, load.running, self._line.starts_of(subject), self._now)
