"""The options that select events, which several commands share."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import rich_click as click
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log.audit_log import EventFilter
from adapters.log.log_history import LogHistory
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import EVENT_TYPES
from domain.language.identifiers import POSITION_MAX

F = TypeVar("F", bound=Callable[..., object])


class TimeParameter(click.ParamType[datetime]):
    """A time in RFC 3339, like 2026-01-31T12:00:00Z."""

    name = "time"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return validation.time(value, (param and param.opts[0]) or "a time")
        except InvalidInput as error:
            self.fail(f"{error} This is {value[:40]!r}.", param, ctx)


since_option = click.option(
    "--since",
    type=TimeParameter(),
    metavar="TIME",
    help="Only from this time on (RFC 3339), like 2026-01-31T12:00:00Z.",
)
until_option = click.option(
    "--until", type=TimeParameter(), metavar="TIME", help="Only before this time (RFC 3339)."
)
_OPTIONS = (
    click.option("--user", "user_id", metavar="ID", help="Only events about this user."),
    click.option("--job", "job_id", type=int, metavar="ID", help="Only events about this job."),
    click.option(
        "--type",
        "types",
        multiple=True,
        type=click.Choice(list(EVENT_TYPES)),
        metavar="TYPE",
        help="Only events of this type; may be given several times. One of "
        f"{', '.join(EVENT_TYPES)}.",
    ),
    click.option("--by", metavar="NAME", help="Only events that this API key caused."),
    since_option,
    until_option,
    click.option(
        "--after",
        type=click.IntRange(0, POSITION_MAX),
        metavar="POSITION",
        help="Only events after this position, such as the last one of the previous output.",
    ),
)


def condition_options(command: F) -> F:
    """Add the options to a command, which receives them as the keywords of `conditions_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class EventConditions(Struct, frozen=True):
    """The conditions of a command, all of which must hold; None: no condition."""

    wanted: EventFilter
    since: datetime | None  # inclusive, UTC
    until: datetime | None  # exclusive, UTC
    after: int | None  # a position; exclusive

    @property
    def begin_somewhere(self) -> bool:
        """True if a position or a time says where to begin."""
        return self.after is not None or self.since is not None

    def between(self, log: LogHistory, connection: Connection) -> tuple[int, int]:
        """Return the positions after which and before which the events are, both exclusive.

        Without `until`, the second follows the current head.
        """
        first = log.cut(connection).position + 1
        if self.since is not None:
            first = log.first_at(connection, self.since)
        end = (
            log.position(connection) + 1
            if self.until is None
            else log.first_at(connection, self.until)
        )
        return max(self.after or 0, first - 1), end


def conditions_of(
    *,
    user_id: str | None,
    job_id: int | None,
    types: Sequence[str],
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    after: int | None,
) -> EventConditions:
    """Check the values of the options. Raises `InvalidInput`."""
    wanted = EventFilter(
        user_id=None if user_id is None else validation.user_id(user_id),
        job_id=None if job_id is None else validation.job_id(job_id),
        types=types,
        by=None if by is None else validation.key_name(by),
    )
    return EventConditions(wanted, since, until, after)
