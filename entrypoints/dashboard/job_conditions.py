"""The conditions of the jobs page, as a person writes them into its form or address."""

import re
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from domain.jobs.job import State
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.moments import later
from entrypoints.dashboard.rendering import query
from entrypoints.http.requests import TEXT_MAX
from entrypoints.use_cases.find_jobs import JobConditions

_BEFORE_NOW: Final = re.compile(r"([1-9][0-9]{0,5}) ?([smhd])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class AskedJobs(Struct, frozen=True, kw_only=True):
    """The conditions as texts; an empty one is no condition."""

    user: str = ""
    state: str = ""
    kind: str = ""
    error: str = ""
    since: str = ""  # RFC 3339, or a length before now: 90s, 15m, 2h, 7d
    until: str = ""  # likewise

    @property
    def are_any(self) -> bool:
        return any(asdict(self).values())

    def address(self, **more: object) -> str:
        """Return the query of the address that asks for the same, and for `more`."""
        return query(**(asdict(self) | more))

    def parse(self, now: datetime) -> JobConditions:
        """Raises `InvalidInput`. `now`: the log's time, which lengths of time are counted from."""
        if len(self.error) > TEXT_MAX:
            raise InvalidInput(f"The text of an error has at most {TEXT_MAX} characters.")
        return JobConditions(
            user_id=validation.user_id(self.user) if self.user else None,
            state=_state(self.state) if self.state else None,
            kind=validation.kind(self.kind) if self.kind else None,
            error_contains=self.error or None,
            since=_moment(self.since, "Since", now),
            until=_moment(self.until, "Until", now),
        )


def asked_of(form: dict[str, Any]) -> AskedJobs:
    """Return the conditions that a form sends; other fields are ignored."""
    return AskedJobs(**{name: str(form.get(name, "")) for name in AskedJobs.__struct_fields__})


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise InvalidInput(f"There is no state {name!r}; there are {', '.join(State)}.") from None


def _moment(text: str, name: str, now: datetime) -> datetime | None:
    text = text.strip()
    if not text:
        return None
    if length := _BEFORE_NOW.fullmatch(text):
        return later(now, -int(length[1]) * _UNIT_SECONDS[length[2]])
    try:
        return validation.time(text, name)
    except InvalidInput:
        raise InvalidInput(
            f"{name} is a length of time before now, like 15m, 2h or 7d, or a time with an offset, "
            f"like 2026-01-31T12:00:00Z; not {text!r}."
        ) from None
