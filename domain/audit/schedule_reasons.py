"""Says which schedule submitted a job, and for which time."""

from typing import Final

from domain.audit.reasons import Reason, format_time
from domain.language.events import ScheduleFired
from domain.language.schedules import RunCause

_RUN: Final = {
    RunCause.TIME: "the run of {}",
    RunCause.BUFFER: "the run of {}, which was buffered while the job before it was open",
    RunCause.TRIGGER: "a run that was triggered at {}",
    RunCause.BACKFILL: "the run of {}, in a backfill",
}


def submitted_by_schedule(run: ScheduleFired) -> Reason:
    which = _RUN[run.cause].format(format_time(run.due_at))
    return Reason(
        "schedule",
        f"The schedule {run.name!r} submitted it for {which}.",
        {"schedule": run.name, "due_at": run.due_at, "cause": run.cause.value},
    )
