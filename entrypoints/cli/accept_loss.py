"""`fairlog accept-loss`: lets the service go on with a log that has lost its end."""

from collections import Counter
from typing import Final

import rich_click as click
from click.exceptions import UsageError

from adapters.log.lost_events import LostEvents
from domain.language.errors import LossElsewhere
from entrypoints.cli.failure import CommandFailed
from entrypoints.cli.output import counted, echo, examples
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.use_cases.losses import accept_loss, reported_loss

_USERS_SHOWN_MAX: Final = 10
_DO_AGAIN: Final = (
    "What was decided in lost events holds no longer: keys that were revoked are valid again, "
    "bodies that were erased are back, and limits, plans, schedules and callbacks are as they were "
    "before. Do it again."
)
# Decisions of operators and users that hold no longer once these events are lost, although nothing
# else will show it.
_UNDONE_SILENTLY: Final = frozenset(
    {
        *("KeyRevoked", "KeyRotated", "BodiesErased", "LimitChanged", "PlanDeleted"),
        *("ScheduleSet", "ScheduleDeleted"),
        *("CallbackSet", "CallbackDeleted", "CallbackSecretRotated"),
    }
)


@click.command(
    "accept-loss",
    epilog=examples("fairlog accept-loss", "fairlog accept-loss --at 41200"),
)
@database_url_option
@click.option(
    "--at",
    type=click.IntRange(min=0),
    metavar="POSITION",
    help="The latest event that the database has, as servers and this command show it.",
)
@click.option(
    "--known",
    type=click.IntRange(min=0),
    metavar="POSITION",
    help="The latest event that anybody knows, if it is beyond those that servers have reported: "
    "from a kept head, for example. Numbers up to there are not given again.",
)
@click.option(
    "--forget",
    is_flag=True,
    help="Give the numbers of the lost events again. Stop all servers and workers before.",
)
def accept_lost_end(
    database_url: str | None, *, at: int | None, known: int | None, forget: bool
) -> None:
    """Go on without the events that a failover or a restored backup has lost.

    Servers write nothing to a log that lacks events which they know: callers get 503. If the
    earlier database can be brought back, do that. Else accept the loss: `EventLost` is recorded at
    the position of each lost event, so that no job gets its number, and `LossAccepted` after them.
    Running servers go on by themselves. Without --at, the command shows what servers have reported.
    """
    with open_log(database_url) as fairlog:
        loss = reported_loss(fairlog)
        if at is None:
            if known is not None or forget:
                raise UsageError("Give --at, too.")
            _show(loss, loss.known)
            return
        if at != loss.at:
            raise LossElsewhere(loss.at, at)
        if known is not None and forget:
            raise UsageError("Give either --known or --forget.")
        if known is not None and known < loss.known:
            raise UsageError(f"--known: servers have reported events up to {loss.known}.")
        up_to = loss.at if forget else max(loss.known, known or 0)
        if up_to == loss.at and not forget:
            raise CommandFailed(
                "No server has reported a loss, so nothing was accepted. If events are lost all "
                "the same, name the latest one that is known with --known."
            )
        _show(loss, max(loss.known, up_to), may_be_more=forget)
        fairlog.writer.start()
        position = accept_loss(fairlog, loss, up_to, gives_numbers_again=forget)
        next_ = "Start the servers again." if forget else "Running servers go on within seconds."
        taken = counted(up_to - loss.at, "number is", "numbers are")
        echo(f"Accepted with event {position}: {taken} not given again. {next_}")


def _show(loss: LostEvents, up_to: int, *, may_be_more: bool = False) -> None:
    """Show what is known of the events that are lost up to a position, or beyond it."""
    lost = up_to - loss.at
    types = Counter(one.lost_type for one in loss.by_position.values())
    unknown = lost - len(loss.by_position)
    if lost:
        after = counted(lost, "event after it is lost", "events after it are lost")
        echo(f"The log ends at event {loss.at}, and {after}:")
        for name, count in types.most_common():
            echo(f"  {count:>8,}  {name}")
        if unknown:
            echo(f"  {unknown:>8,}  of which only the position is known")
    else:
        echo(f"The log ends at event {loss.at}. No server has reported that events are lost.")
    if types.keys() & _UNDONE_SILENTLY or unknown or may_be_more:
        echo(_DO_AGAIN)
    submitted = Counter(
        one.user_id for one in loss.by_position.values() if one.lost_type == "JobSubmitted"
    )
    if submitted:
        shown = ", ".join(
            f"{user} ({count})" for user, count in submitted.most_common(_USERS_SHOWN_MAX)
        )
        more = len(submitted) - _USERS_SHOWN_MAX
        echo(f"Lost jobs by user: {shown}{f' and {more} more users' if more > 0 else ''}")
