"""Starts: caps, throttles, and whose turn it is.

The waiting user whose latest start is the longest ago is next, by position; a user who never had a
start counts from the position of joining the line. A user whose cap or throttle is used up is out
of the line, from the event that does it until the next event of one of their jobs or a
`LineUpdated` that names them. All users have the same weight here.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from heapq import heappop, heappush

from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, micros
from tests.soak.referee.limits import Limits

Kinds = Callable[[str], Collection[str]]  # of the jobs that a worker claims, by its name
_Waiting = tuple[int, int]  # priority, negative; job
_Window = tuple[str, str, int, int, int]  # whose, name, since, seconds, start


@dataclass(slots=True)
class _User:
    served: int | None = None  # position of the latest start
    joined: int = 0  # position, of one who never had a start
    waits: dict[int, tuple[str, int]] = field(default_factory=dict)  # by job: kind, priority
    queues: dict[str, list[_Waiting]] = field(default_factory=dict)  # by kind; may have more
    running: int = 0
    is_held: bool = False

    @property
    def turn(self) -> int:
        return self.joined if self.served is None else self.served

    def first(self, kind: str) -> _Waiting | None:
        """Return the first waiting job of a kind."""
        queue = self.queues.get(kind, [])
        while queue and self.waits.get(queue[0][1]) != (kind, -queue[0][0]):
            heappop(queue)
        return queue[0] if queue else None


class Starts:
    """`kinds_of` says which kinds a worker claims."""

    def __init__(self, findings: Findings, limits: Limits, kinds_of: Kinds) -> None:
        self._findings = findings
        self._limits = limits
        self._kinds_of = kinds_of
        self._users: dict[str, _User] = {}
        self._kinds_running: Counter[str] = Counter()
        self._started: Counter[_Window] = Counter()

    def see(self, event: Event) -> None:
        if event.job is None:
            self._see_limits(event)
            return
        if _ends_attempt(event):
            self._free(event)
        if _waits_from(event):
            self._enter(event)
        elif event.type == "JobStarted":
            self._start(event)
        elif event.type == "JobCancelled" and event.data["was"] == "queued":
            self._leave(event)

    def _see_limits(self, event: Event) -> None:
        data = event.data
        match event.type:
            case "LineUpdated":
                for user in data["users"]:
                    self._look_again(user, event.at)
            case "LimitChanged" if data["scope"] == "user":
                self._look_again(data["user_id"], event.at)
            case _:
                pass

    def _user(self, name: str) -> _User:
        return self._users.setdefault(name, _User())

    def _enter(self, event: Event) -> None:
        name, job, kind = event.data["user_id"], event.job, event.data["kind"]
        assert job is not None
        user, priority = self._user(name), event.data.get("priority", 0)
        if not user.waits:
            user.joined = event.position
        user.waits[job] = kind, priority
        heappush(user.queues.setdefault(kind, []), (-priority, job))
        self._look_again(name, event.at)

    def _leave(self, event: Event) -> None:
        name = event.data["user_id"]
        assert event.job is not None
        self._user(name).waits.pop(event.job, None)
        self._look_again(name, event.at)

    def _free(self, event: Event) -> None:
        """Count an attempt as ended."""
        self._user(event.data["user_id"]).running -= 1
        self._kinds_running[event.data["kind"]] -= 1
        self._look_again(event.data["user_id"], event.at)

    def _look_again(self, name: str, at: int) -> None:
        self._user(name).is_held = self._free_of_user(name, at) <= 0

    def _start(self, event: Event) -> None:
        name, kind, job = event.data["user_id"], event.data["kind"], event.job
        user, check = self._user(name), self._findings.check
        self._check_limits(event)
        kinds = {
            one for one in self._kinds_of(event.data["worker"]) if self._is_open(one, event.at)
        }
        firsts = [one for one in (user.first(each) for each in kinds | {kind}) if one is not None]
        if [*user.waits] != [job]:
            is_first = bool(firsts) and min(firsts)[1] == job
            check(Rule.OWN_ORDER, is_first, f"{event.position}: {name} had {sorted(firsts)[:3]}")
        others = [
            (one.turn, other)
            for other, one in self._users.items()
            if other != name and one.waits and not one.is_held and any(map(one.first, kinds))
        ]
        if others:
            turn, other = min(others)
            check(Rule.TURN, user.turn < turn, f"{event.position}: {other} was before {name}")
        user.running += 1
        self._kinds_running[kind] += 1
        self._count(event)
        user.served = event.position
        self._leave(event)

    def _check_limits(self, event: Event) -> None:
        name, kind = event.data["user_id"], event.data["kind"]
        for whose, cap, running in (
            (name, self._limits.of_user(name, "running"), self._user(name).running),
            (kind, self._limits.of_kind(kind, "running"), self._kinds_running[kind]),
        ):
            if cap is not None:
                self._findings.check(Rule.CAP, running < cap, f"{event.position}: {whose}, {cap}")
        for window, limit in self._windows(name, kind, event.at):
            self._findings.check(
                Rule.THROTTLE, self._started[window] < limit, f"{event.position}: {window}, {limit}"
            )

    def _windows(self, user: str, kind: str, at: int) -> list[tuple[_Window, int]]:
        """Return the window of each throttle that a start is under, with its limit."""
        return [
            ((whose, name, since, one["seconds"], at // (one["seconds"] * 1_000_000)), one["limit"])
            for whose, name, one, since in (
                (
                    "user",
                    user,
                    self._limits.of_user(user, "throttle"),
                    self._limits.user_throttle_since(user),
                ),
                (
                    "kind",
                    kind,
                    self._limits.of_kind(kind, "throttle"),
                    self._limits.kind_throttle_since(kind),
                ),
            )
            if one is not None
        ]

    def _count(self, event: Event) -> None:
        for window, _ in self._windows(event.data["user_id"], event.data["kind"], event.at):
            self._started[window] += 1

    def _free_of_user(self, name: str, at: int) -> float:
        cap = self._limits.of_user(name, "running")
        free = float("inf") if cap is None else cap - self._user(name).running
        for window, limit in self._windows(name, "", at):
            free = min(free, limit - self._started[window])
        return 0 if self._limits.of_user(name, "paused") else free

    def _is_open(self, kind: str, at: int) -> bool:
        cap = self._limits.of_kind(kind, "running")
        if cap is not None and self._kinds_running[kind] >= cap:
            return False
        return all(
            self._started[window] < limit
            for window, limit in self._windows("", kind, at)
            if window[0] == "kind"
        )


def _ends_attempt(event: Event) -> bool:
    """Return True if an attempt that counts as running has ended with the event."""
    data = event.data
    match event.type:
        case "JobCompleted" | "AttemptEnded":
            return True
        case "JobFailed":
            return data.get("parent") is None and not data.get("holds_place", False)
        case "JobRequeued":
            return bool(data["reason"] != "retried" and not data.get("waits", False))
        case "JobCancelled":
            return bool(data["was"] == "running" and data.get("attempt") is None)
        case _:
            return False


def _waits_from(event: Event) -> bool:
    """Return True if the job waits for a worker from the event on."""
    data = event.data
    match event.type:
        case "JobSubmitted":
            waits_for = set(data.get("after", ())) - set(data.get("after_ended", ()))
            run_at = data.get("run_at")
            return not waits_for and (run_at is None or micros(run_at) <= event.at)
        case "JobRequeued":
            return not data.get("waits", False)
        case _:
            return event.type == "JobReleased"
