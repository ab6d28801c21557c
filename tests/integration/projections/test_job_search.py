"""Finding jobs by several conditions: whole, in order, and never looking at more than so many."""

from collections.abc import Iterator

import pytest

from adapters.settings import Settings
from domain.decisions.answers import Submitted
from domain.jobs.job import State
from domain.language.bodies import body_of
from domain.language.commands import CancelJob, SubmitJob
from domain.language.identifiers import JobId, Kind, UserId
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from projections.queries import job_search
from projections.queries.job_search import JobFilter, JobSearch, JobSearchPage
from projections.storage import registry
from tests.conftest import NewDatabase
from tests.support.core import execute_now
from tests.support.prepared import prepare

USERS, KINDS = ("alice", "bob", "carol"), ("echo", "report")


@pytest.fixture(scope="module")
def fairlog(new_database_url: NewDatabase) -> Iterator[Fairlog]:
    """60 jobs of three users and two kinds; every fifth is cancelled."""
    fairlog = compose(Settings(database_url=new_database_url()))
    prepare(fairlog)
    fairlog.writer.start()
    for number in range(60):
        command = SubmitJob(
            user_id=UserId(USERS[number % 3]),
            kind=Kind(KINDS[number % 2]),
            payload=body_of(number, "payload"),
        )
        submitted = execute_now(fairlog, command)
        assert isinstance(submitted, Submitted)
        if number % 5 == 0:
            execute_now(fairlog, CancelJob(job_id=submitted.job.id))
    yield fairlog
    fairlog.close()


@pytest.fixture
def search() -> JobSearch:
    return JobSearch(registry.current("jobs"))


FILTERS = [
    JobFilter(user_id=user_id, state=state, kind=kind)
    for user_id in (None, UserId("bob"))
    for state in (None, State.CANCELLED)
    for kind in (None, Kind("report"))
]


def expected(fairlog: Fairlog, wanted: JobFilter) -> list[JobId]:
    everything = fairlog.read_now(
        fairlog.with_saved_rows(
            lambda connection: fairlog.jobs.newest(connection, None, None, None, 1000)
        )
    )
    return [
        job.id
        for job in everything
        if wanted.user_id in {None, job.user_id}
        and wanted.state in {None, job.state}
        and wanted.kind in {None, job.kind}
    ]


def older(
    fairlog: Fairlog, search: JobSearch, wanted: JobFilter, below: int | None
) -> JobSearchPage:
    return fairlog.read_now(
        fairlog.with_saved_rows(lambda connection: search.older(connection, wanted, below, 7))
    )


@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("rows_searched_max", [5000, 10])
def test_pages_down_have_every_job_once(
    fairlog: Fairlog,
    search: JobSearch,
    wanted: JobFilter,
    rows_searched_max: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_search, "ROWS_SEARCHED_MAX", rows_searched_max)
    found: list[JobId] = []
    below: int | None = None
    while True:
        page = older(fairlog, search, wanted, below)
        found += [job.id for job in page.jobs]
        if not page.has_older:
            break
        below = page.searched_down_to or page.jobs[-1].id
    assert found == expected(fairlog, wanted)


@pytest.mark.parametrize("wanted", FILTERS)
def test_pages_up_are_those_next_above(
    fairlog: Fairlog, search: JobSearch, wanted: JobFilter
) -> None:
    everything = expected(fairlog, wanted)
    middle = everything[len(everything) // 2]
    page = fairlog.read_now(lambda connection: search.newer(connection, wanted, middle, 7))
    above = [job_id for job_id in everything if job_id > middle]
    assert [job.id for job in page.jobs] == above[-7:]
    assert page.has_newer == (len(above) > 7)
    assert page.has_older
