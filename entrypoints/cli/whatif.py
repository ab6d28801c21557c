"""`fairlog whatif`: shows which users would have been refused under other limits."""

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
from entrypoints.use_cases.whatif import WhatIfResult, what_if

_ROW: Final = "{:<32}  {:>12}  {:>12}  {:>12}  {:>14}  {:>14}  {}"
_WINDOW_SECONDS_MAX: Final = 366 * 86_400
_LIMIT: Final = click.IntRange(0, LIMIT_MAX)


@click.command(
    epilog=examples(
        "fairlog whatif --user-limit 50 --since 2026-01-31T00:00:00Z --until 2026-02-01T00:00:00Z",
        "fairlog whatif --window 3600 --user-limit 1000 --format json",
        "fairlog whatif --plan free=50 --plan gold=500",
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
    plans: tuple[str, ...],
    **limits: Any,  # noqa: ANN401 (those of OtherLimits)
) -> None:
    """Replay the recorded submissions under other limits.

    Shows for each user how many were admitted and refused, and how many would have been. A limit
    that is not given stays as it was, with its changes. The log is not changed.
    """
    other = OtherLimits(plan_limits=dict(map(_plan_limit, plans)), **limits)
    with (
        open_log(database_url) as fairlog,
        fairlog.database.read() as connection,
        progress("replaying") as report,
    ):
        result = what_if(fairlog, connection, other, since, until, report)
    if form == "json":
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
