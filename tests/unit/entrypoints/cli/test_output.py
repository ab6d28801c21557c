"""What commands show while they work, where there is no terminal."""

import re

import pytest

from entrypoints.cli import output
from entrypoints.cli.output import progress_of_steps


@pytest.fixture(autouse=True)
def _each_report_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINE_SECONDS", 0.0)


def test_each_step_counts_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of_steps() as report:
        report("writing", 500, 1_000)
        report("writing", 1_000, 1_000)
        report("deleting", 250, 1_000)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"[\d,]+ events/s", "N events/s", line.split(", 0 s")[0]) for line in lines] == [
        "writing: 500 of 1,000 events, N events/s",
        "writing: 1,000 of 1,000 events, N events/s",
        "deleting: 250 of 1,000 events, N events/s",
    ]
