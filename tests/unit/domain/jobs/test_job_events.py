"""Every event that changes a job is known to all that follow jobs."""

from domain.jobs.history import CHANGES
from domain.jobs.known_jobs import Jobs
from domain.language.events import LeasesExtended


def test_the_write_model_and_the_history_of_a_job_fold_the_same_events() -> None:
    assert set(Jobs.FOLDS) == {*CHANGES, LeasesExtended}
