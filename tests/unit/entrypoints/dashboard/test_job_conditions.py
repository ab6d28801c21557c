from datetime import timedelta

import pytest

from domain.jobs.job import State
from domain.language.errors import InvalidInput
from domain.language.identifiers import Kind, UserId
from entrypoints.dashboard.job_conditions import AskedJobs, asked_of
from entrypoints.use_cases.find_jobs import JobConditions
from tests.support.clock import NOON


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2 h", 7200), ("7d", 604_800)]
)
def test_a_length_of_time_is_counted_from_now_back(text: str, seconds: int) -> None:
    assert AskedJobs(since=text).parse(NOON).since == NOON - timedelta(seconds=seconds)


def test_all_conditions_are_read_and_an_empty_one_is_none() -> None:
    asked = AskedJobs(
        user="ada", state="failed", kind="export", error="disk", until="2026-01-31T13:00:00+01:00"
    )
    assert asked.parse(NOON) == JobConditions(
        user_id=UserId("ada"),
        state=State.FAILED,
        kind=Kind("export"),
        error_contains="disk",
        until=NOON,
    )
    assert AskedJobs().parse(NOON) == JobConditions()
    assert not AskedJobs().are_any


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (AskedJobs(since="yesterday"), "Since is a length of time before now, like 15m, 2h or 7d"),
        (AskedJobs(until="0m"), "Until is a length of time"),
        (AskedJobs(until="2026-01-31 12:00"), "Until is a length of time"),
        (AskedJobs(state="lost"), "There is no state 'lost'"),
        (AskedJobs(error="x" * 1001), "at most 1000 characters"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_sentence(asked: AskedJobs, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        asked.parse(NOON)


def test_the_address_asks_for_the_same_and_leaves_empty_conditions_out() -> None:
    assert AskedJobs(user="a b", error="50 %").address(before=7) == (
        "?user=a+b&error=50+%25&before=7"
    )


def test_a_form_may_have_other_fields() -> None:
    assert asked_of({"state": "failed", "id": ["1", "2"]}) == AskedJobs(state="failed")
