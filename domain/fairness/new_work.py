"""Count the jobs per kind that a batch makes claimable, to wake the workers that wait for them."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from domain.fairness.line import Line
from domain.jobs.job_fold import is_due
from domain.language.events import (
    AttemptEnded,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    LimitChanged,
    LineUpdated,
    PlanDeleted,
    Recorded,
)
from domain.language.identifiers import Kind

MANY: Final = 1_000  # assumed number of jobs that a changed cap admits


def new_work(recorded: Iterable[Recorded], line: Line) -> Counter[Kind]:
    """Return an upper bound of the jobs of each kind that the events make claimable.

    `line` has the events folded in. A job that enters the line counts. So does the end of an
    attempt under a cap of its user, kind or resources, for one waiting job; without a cap, no job
    waited for it.
    """
    found: Counter[Kind] = Counter()
    for one in recorded:
        event = one.event
        match event:
            case JobSubmitted():
                if is_due(event, one.recorded_at):
                    found[event.kind] += 1
            case JobReleased():
                found[event.kind] += 1
            case JobRequeued() if not event.waits:
                found[event.kind] += 1
                _add_freed(found, line, event)
            case JobCompleted() | JobFailed() | JobCancelled() | AttemptEnded():
                _add_freed(found, line, event)
            case LimitChanged(user_id=str(user_id)):
                found.update(dict.fromkeys(line.kinds_waiting(user_id), MANY))
            case LimitChanged(kind=str(kind)):
                found[kind] += MANY
            case LimitChanged() | PlanDeleted():
                found.update(dict.fromkeys(line.kinds_in_line(), MANY))
            case LineUpdated(users=users):
                for user_id in users:
                    found.update(dict.fromkeys(line.kinds_waiting(user_id), MANY))
            case _:
                pass
    return found


def _add_freed(
    found: Counter[Kind],
    line: Line,
    ended: JobRequeued | JobCompleted | JobFailed | JobCancelled | AttemptEnded,
) -> None:
    limits, user_id, kind = line.limits, ended.user_id, ended.kind
    if limits.of_kind(kind).running is not None:
        found[kind] += 1
    if limits.of_user(user_id).running is not None:
        found.update(line.kinds_waiting(user_id))
    if limits.of_user_kind(user_id, kind).running is not None:
        found[kind] += 1
    for resource in ended.resources:
        if limits.of_resource(resource).running is not None:
            found.update(line.kinds_using(resource))
