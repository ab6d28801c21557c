"""Reasons that lie in the jobs that one comes after."""

from collections.abc import Mapping
from typing import Final

from domain.audit.reasons import Reason, amount, format_time
from domain.jobs.job import Job, State
from domain.language.events import AfterFailure
from domain.language.identifiers import JobId

PARENTS_NAMED_MAX: Final = 10  # the rest is counted


def waits_for(job: Job, states: Mapping[JobId, State]) -> Reason:
    """Name the jobs that it waits for; `states` are those of the first of them."""
    named = [
        f"job {one} ({states[one].value})" if one in states else f"job {one}"
        for one in job.waits_for[:PARENTS_NAMED_MAX]
    ]
    left, ended = len(job.waits_for), len(job.after) - len(job.waits_for)
    others = f" and {amount(left - len(named), 'other')}" if left > len(named) else ""
    before = f"; {amount(ended, 'other')} that it comes after ended before" if ended else ""
    return Reason(
        "waits_for",
        f"It waits for the end of {', '.join(named)}{others}{before}."
        f"{_IF_ONE_FAILS[job.after_failure]}",
        {"waits_for": job.waits_for, "jobs_left": left, "jobs_ended": ended},
    )


def did_not_run(job: Job, parent: JobId) -> Reason:
    """Say that it failed or was cancelled because of a job that it comes after."""
    how = "failed, too" if job.state is State.FAILED else "was cancelled"
    return Reason(
        "parent_failed",
        f"Job {parent}, which it comes after, failed or was cancelled, so it {how} at "
        f"{format_time(job.finished_at)} and did not run. Retried, it runs all the same, once the "
        "other jobs that it comes after have ended.",
        {"parent": parent, "finished_at": job.finished_at},
    )


_IF_ONE_FAILS: Final = {
    AfterFailure.FAIL: " If one of them fails or is cancelled, it fails, too.",
    AfterFailure.CANCEL: " If one of them fails or is cancelled, it is cancelled.",
    AfterFailure.RUN: " It runs then, however they end.",
    None: "",
}
