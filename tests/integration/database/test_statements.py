"""A batch costs a handful of statements, whatever is in it and however much there is already."""

from collections.abc import Callable

import pytest

from tests.benchmarks.mixed_batch import count_statements
from tests.benchmarks.statements import STATEMENTS_MAX


@pytest.mark.parametrize("has_start_limits", [False, True])
@pytest.mark.parametrize("jobs_a_user", [2, 20])
def test_200_mixed_commands_of_200_users_take_a_handful_of_statements(
    database_url: str,
    jobs_a_user: int,
    has_start_limits: bool,  # noqa: FBT001 (a parameter of pytest)
) -> None:
    counted = count_statements(database_url, jobs_a_user, has_start_limits=has_start_limits)
    assert counted.statements <= STATEMENTS_MAX, counted


def test_the_number_of_jobs_does_not_change_the_number_of_statements(
    new_database_url: Callable[[], str],
) -> None:
    counted = [count_statements(new_database_url(), jobs).statements for jobs in (2, 8, 16)]
    # One of them removes the rows of lanes that were emptied, where there are any.
    assert max(counted) - min(counted) <= 1, counted
