"""Schedules at intervals: each due time is decided, and makes at most one job."""

from collections import Counter
from typing import Any

from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, micros


class Schedules:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._set: dict[str, dict[str, Any]] = {}
        self._due: dict[str, int | None] = {}  # the time that has to be decided next
        self._made: Counter[tuple[str, int]] = Counter()  # jobs, by schedule and due time

    def see(self, event: Event) -> None:
        data = event.data
        match event.type:
            case "ScheduleSet":
                self._set[data["name"]] = data
                self._due[data["name"]] = _time(data.get("next_due_at"))
            case "ScheduleDeleted":
                del self._set[data["name"]], self._due[data["name"]]
            case "ScheduleFired":
                self._fire(event)
            case _:
                pass

    def check_end(self, now: int) -> None:
        """Check that no due time is left whose catch-up window has ended. `now`: microseconds."""
        for name, due in self._due.items():
            seconds = self._set[name]["catch_up_seconds"]
            is_over = due is not None and due + seconds * 1_000_000 < now
            self._findings.check(Rule.SCHEDULED_ALL, not is_over, name, "was not decided:", due)

    def _fire(self, event: Event) -> None:
        data, name = event.data, event.data["name"]
        due, outcome = micros(data["due_at"]), data["outcome"]
        if outcome == "submitted":
            self._made[name, due] += 1
            is_once = self._made[name, due] == 1 and data.get("job") is not None
            self._findings.check(Rule.SCHEDULED_ONCE, is_once, name, "at", event.position)
        if data["cause"] != "time":
            return
        settings = self._set[name]
        step = settings["timing"]["every_seconds"] * 1_000_000
        is_expected = due == self._due[name]
        if outcome == "missed":  # only what is later than the catch-up window may be left out
            is_expected = is_expected and due + settings["catch_up_seconds"] * 1_000_000 < event.at
            self._due[name] = _time(data.get("next_due_at"))
        elif outcome != "deferred":
            self._due[name] = due + step
        self._findings.check(Rule.SCHEDULED_ALL, is_expected, name, "at", event.position)


def _time(text: str | None) -> int | None:
    return None if text is None else micros(text)
