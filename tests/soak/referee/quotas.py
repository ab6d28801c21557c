"""Quotas: how many submissions each window admitted, and who was refused with room left."""

from collections import Counter
from typing import Any

from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, micros
from tests.soak.referee.limits import Limits

ALL = ""  # in the place of a user: all users together
Window = tuple[str, int, int]  # user or ALL, length in seconds, start in microseconds


class Quotas:
    """`window_seconds`, `user_limit` and `global_limit` are the settings of the servers."""

    def __init__(
        self,
        findings: Findings,
        limits: Limits,
        *,
        window_seconds: int,
        user_limit: int,
        global_limit: int,
    ) -> None:
        self.used: Counter[Window] = Counter()
        self.refused: Counter[str] = Counter()  # submissions, by user
        self._findings = findings
        self._limits = limits
        self._window_seconds = window_seconds
        self._user_limit = user_limit
        self._global_limit = global_limit
        self._full_since: dict[Window, int] = {}
        self._before: Event | None = None

    def see(self, event: Event) -> None:
        if event.type == "RateLimitDecided":
            if event.data["allowed"]:
                self._admit(event)
            else:
                self._refuse(event)
        elif event.type == "JobSubmitted" and "delivery" not in event.data:
            self._find_admission(event)
        self._before = event

    def has_room(self, user: str, scope: str, seconds: int, start: int, limit: int) -> bool:
        """Return True if a window never admitted as many as a refusal said."""
        return self.used[user if scope == "user" else ALL, seconds, start] < limit

    def _find_admission(self, event: Event) -> None:
        before = self._before
        is_admitted = (
            before is not None
            and before.type == "RateLimitDecided"
            and before.data["allowed"]
            and before.data.get("count", 1) == 1
            and (before.user, before.job) == (event.user, event.job)
        )
        self._findings.check(Rule.ADMISSION, is_admitted, "job", event.position)

    def _windows(self, user: str) -> list[tuple[str, int, int]]:
        """Return user or ALL, length and limit of each window that a submission passes."""
        found = [(user, self._window_seconds, self._limit_of(user))]
        found += [
            (user, one["seconds"], one["limit"])
            for one in self._limits.of_user(user, "windows") or ()
        ]
        found.append((ALL, self._window_seconds, self._limit_of(ALL)))
        found += [
            (ALL, one["seconds"], one["limit"]) for one in self._limits.of_all("windows") or ()
        ]
        return found

    def _limit_of(self, user: str) -> int:
        said: Any = self._limits.of_user(user, "limit") if user else self._limits.of_all("limit")
        default = self._user_limit if user else self._global_limit
        return default if said is None else int(said)

    def _admit(self, event: Event) -> None:
        user, count = event.data["user_id"], event.data.get("count", 1)
        counted: set[Window] = set()
        for who, seconds, limit in self._windows(user):
            window = (who, seconds, _start(event.at, seconds))
            is_new = window not in counted
            counted.add(window)
            before = self.used[window] - (0 if is_new else count)
            self._findings.check(Rule.OVER, before < limit, "at", event.position, window, limit)
            self.used[window] += count if is_new else 0
            if self.used[window] >= limit:
                self._full_since.setdefault(window, event.at)

    def _refuse(self, event: Event) -> None:
        data = event.data
        seconds, start = data["window_seconds"], micros(data["window_start"])
        window = (data["user_id"] if data["scope"] == "user" else ALL, seconds, start)
        known = [
            (who, length)
            for who, length, limit in self._windows(data["user_id"])
            if limit == data["limit"]
        ]
        is_limit = window[:2] in known
        first, last = (
            micros(data[name]) if data.get(name) else event.at for name in ("first_at", "last_at")
        )
        is_within = start <= first <= last < start + seconds * 1_000_000
        is_full = self.used[window] >= data["limit"]
        was_full = is_full and self._full_since.get(window, first) <= first
        self._findings.check(
            Rule.UNDER, is_limit and is_within and was_full, "at", event.position, window, data
        )
        self.refused[data["user_id"]] += data.get("count", 1)


def _start(at: int, seconds: int) -> int:
    length = seconds * 1_000_000
    return at // length * length
