"""All that `make simulation` runs, small."""

import shutil
from pathlib import Path

import pytest

from tests.simulation.arrivals import Traffic
from tests.simulation.report import Circumstances, parts, write
from tests.simulation.scenarios import Figures, Sizes, run
from tests.support.repository import ROOT

SIZES = Sizes(
    traffic=Traffic(users=5_000, arrivals=6_000_000, partitions=3, seed=3),
    fairness_seconds=5,
    outage_seconds=60,
)
CIRCUMSTANCES = Circumstances("2 cores", "today", 1.0)


@pytest.fixture(scope="module")
def figures() -> Figures:
    return run(SIZES)


def test_a_run_is_the_same_for_the_same_seed(figures: Figures) -> None:
    assert run(SIZES) == figures


def test_the_global_limit_is_kept_and_missed_by_no_more_than_the_bound(figures: Figures) -> None:
    for one in figures.quotas:
        for result in (one.all_busy, one.half_idle):
            assert result.over == 0
            assert result.used_up > 0
            assert result.missed_max <= result.bound


def test_larger_leases_need_fewer_requests(figures: Figures) -> None:
    fixed = [one.all_busy for one in figures.quotas if not one.all_busy.leases.adapts]
    requests = [one.requests_per_second for one in fixed]
    assert [one.leases.largest for one in fixed] == sorted(one.leases.largest for one in fixed)
    assert requests == sorted(requests, reverse=True)


def test_each_part_of_the_page_is_replaced_and_nothing_else(
    figures: Figures, tmp_path: Path
) -> None:
    page = tmp_path / "scaling.md"
    shutil.copy(ROOT / "docs" / "scaling.md", page)
    before = page.read_text()
    write(page, parts(figures, CIRCUMSTANCES))
    written = page.read_text()
    assert "5,000 users in 3 partitions" in written
    write(page, parts(figures, CIRCUMSTANCES))
    assert page.read_text() == written
    assert [line for line in before.splitlines() if line.startswith(("#", "<!--"))] == [
        line for line in written.splitlines() if line.startswith(("#", "<!--"))
    ]


def test_a_page_without_the_marks_is_refused(figures: Figures, tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    page.write_text("# Scaling\n")
    with pytest.raises(ValueError, match="exactly one part"):
        write(page, parts(figures, CIRCUMSTANCES))
    assert page.read_text() == "# Scaling\n"
