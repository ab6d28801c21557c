"""`fairlog whatif`: shows who would have been refused, or have waited, under other limits."""

from datetime import datetime
from typing import Any, Final

import msgspec
import rich_click as click

from domain.audit.whatif import OtherLimits, Outcome
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import PlanName, UserId
from domain.language.validation import LIMIT_MAX
from entrypoints.cli.event_filters import since_option, until_option
from entrypoints.cli.options import format_option, limit_option
from entrypoints.cli.output import echo, examples, note, printable, progress
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.cli.whatif_starts import other_starts, print_starts, start_options, starts_document
from entrypoints.use_cases.whatif import WhatIfResult, what_if
from entrypoints.use_cases.whatif_starts import what_if_starts

_ROW: Final = "{:<32}  {:>12}  {:>12}  {:>12}  {:>14}  {:>14}  {}"
_WINDOW_SECONDS_MAX: Final = 366 * 86_400
_LIMIT: Final = click.IntRange(0, LIMIT_MAX)


@click.command(
    epilog=examples(
        "fairlog whatif --user-limit 50 --since 2026-01-31T00:00:00Z --until 2026-02-01T00:00:00Z",
        "fairlog whatif --window 3600 --user-limit 1000 --format json",
        "fairlog whatif --plan free=50 --plan gold=500",
        "fairlog whatif --throttle alice=5/1s --weight bob=2 --since 2026-01-31T12:00:00Z",
    )
)
@database_url_option
@click.option(
    "--user-limit", type=_LIMIT, metavar="N", help="Submissions per window for each user."
)
@click.option(
    "--global-limit",
    type=_LIMIT,
    metavar="N",
    help="Submissions per window for all users together.",
)
@click.option(
    "--plan",
    "plans",
    multiple=True,
    metavar="NAME=N",
    help="Submissions per window for each user who was on the plan. May be repeated.",
)
@click.option(
    "--window",
    "window_seconds",
    type=click.IntRange(1, _WINDOW_SECONDS_MAX),
    metavar="SECONDS",
    help="The length of a window, which begins at a multiple of it in Unix time.",
)
@start_options
@since_option
@until_option
@limit_option(
    50,
    "The maximum number of users in the table, those with the largest change first.",
    name="users_max",
)
@format_option("table", "json", text="A table for people, or JSON with every user.")
def whatif(
    database_url: str | None,
    *,
    since: datetime | None,
    until: datetime | None,
    users_max: int,
    form: str,
    **limits: Any,  # noqa: ANN401 (of submissions and starts)
) -> None:
    """Replay the recorded submissions, or the starts of jobs, under other limits.

    With limits of submissions, and without any, it shows for each user how many were admitted and
    refused, and how many would have been.

    With throttles or weights it shows for each user how many starts would have been later or sooner
    by 0.1 s or more, and the waits from joining the line to the start (median, 95th percentile,
    longest), as recorded and as they would have been. Jobs come when they came, a retry as long
    after the attempt before, and each attempt runs as long as it ran. While jobs in the record
    waited that might have started, as many run at once as did; while there were none, up to as many
    as ever ran at once in that time. The next job is the first in the fair order under the other
    limits, of the kinds that the workers took.

    A limit that is not given stays as it was, with its changes. The log is not changed.
    """
    starts = other_starts(limits)
    other = OtherLimits(
        user_limit=limits["user_limit"],
        global_limit=limits["global_limit"],
        window_seconds=limits["window_seconds"],
        plan_limits=dict(map(_plan_limit, limits["plans"])),
    )
    if starts.subjects() and other != OtherLimits():
        raise click.UsageError(
            "Limits of submissions decide which jobs there are, throttles and weights when they "
            "start: ask for one of both at a time."
        )
    with (
        open_log(database_url) as fairlog,
        fairlog.database.read() as connection,
        progress("replaying") as report,
    ):
        if starts.subjects():
            waits = what_if_starts(fairlog, connection, starts, since, until, report)
        else:
            result = what_if(fairlog, connection, other, since, until, report)
    if starts.subjects():
        if form == "json":
            echo(msgspec.json.encode(starts_document(waits)).decode())
        else:
            print_starts(waits, users_max)
    elif form == "json":
        echo(msgspec.json.encode(_document(result)).decode())
    else:
        _print_table(result, users_max)


def _plan_limit(text: str) -> tuple[PlanName, int]:
    """Parse `NAME=N`. Raises `BadParameter`."""
    name, equals, number = text.rpartition("=")
    try:
        if equals:
            limit = validation.whole_number(number, "The limit of a plan", 0, LIMIT_MAX)
            return validation.plan_name(name), limit
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint="--plan") from None
    raise click.BadParameter("a plan and its limit, like gold=500.", param_hint="--plan")


def _document(result: WhatIfResult) -> dict[str, Any]:
    return {
        "users": [{"user_id": user_id, **_counts(one)} for user_id, one in _ordered(result)],
        "total": _counts(result.total),
    }


def _counts(one: Outcome) -> dict[str, Any]:
    return {
        "submissions": one.submissions,
        "admitted": one.admitted,
        "refused": one.refused,
        "would_be_admitted": one.would_be_admitted,
        "would_be_refused": one.would_be_refused,
        "is_estimate": one.is_estimate,
        "admitted_at_least": one.at_least,
        "admitted_at_most": one.at_most,
    }


def _ordered(result: WhatIfResult) -> list[tuple[UserId, Outcome]]:
    """Order users by how much would change for them, the largest change first."""
    return sorted(
        result.users.items(),
        key=lambda item: (-abs(item[1].would_be_admitted - item[1].admitted), item[0]),
    )


def _print_table(result: WhatIfResult, users_max: int) -> None:
    echo(
        _ROW.format(
            "user", "submissions", "admitted", "refused", "would be adm.", "would be ref.", ""
        ).rstrip()
    )
    ordered = _ordered(result)
    for user_id, one in ordered[:users_max]:
        echo(_row(printable(user_id), one))
    echo(_row("all together", result.total))
    if len(ordered) > users_max:
        note(f"{len(ordered) - users_max:,} more users: raise --limit to see them.")


def _row(name: str, one: Outcome) -> str:
    bounds = (
        f"an estimate: {one.at_least:,} to {one.at_most:,} would be admitted"
        if one.is_estimate
        else ""
    )
    counts = (
        one.submissions,
        one.admitted,
        one.refused,
        one.would_be_admitted,
        one.would_be_refused,
    )
    return _ROW.format(name, *(f"{count:,}" for count in counts), bounds).rstrip()
