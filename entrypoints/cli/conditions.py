"""Which events of the log a command is about: options that several commands share."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import rich_click as click
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from adapters.log.event_log import SqlEventLog
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import EVENT_TYPES
from domain.language.identifiers import POSITION_MAX

F = TypeVar("F", bound=Callable[..., object])


class Moment(click.ParamType[datetime]):
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
    click.option(
        "--since", type=Moment(), metavar="TIME", help="From this time on: 2026-01-31T12:00:00Z."
    ),
    click.option("--until", type=Moment(), metavar="TIME", help="Before this time."),
    click.option(
        "--after",
        type=click.IntRange(0, POSITION_MAX),
        metavar="POSITION",
        help="Behind this position; the last one of an answer gives the next.",
    ),
)


def condition_options(command: F) -> F:
    """The options; a command takes them as the keywords of `conditions_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Conditions(Struct, frozen=True):
    wanted: EventFilter  # without times
    since: datetime | None
    until: datetime | None
    after: int | None

    def between(self, log: SqlEventLog, connection: Connection) -> tuple[int, int]:
        """The positions behind and before which they are; the log grows behind the second."""
        first = 1 if self.since is None else audit_log.first_at(connection, self.since)
        end = (
            log.position(connection) + 1
            if self.until is None
            else audit_log.first_at(connection, self.until)
        )
        return max(self.after or 0, first - 1), end


def conditions_of(
    *,
    user_id: str | None,
    job_id: int | None,
    types: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    after: int | None,
) -> Conditions:
    """Raises `InvalidInput`."""
    wanted = EventFilter(
        user_id=None if user_id is None else validation.user_id(user_id),
        job_id=None if job_id is None else validation.job_id(job_id),
        types=types,
    )
    return Conditions(wanted, since, until, after)
