"""The logs of earlier releases, in which all users have equal weights: the order is the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import KnownLine
from domain.fairness.serve import serve
from domain.language.events import JobStarted, Recorded
from domain.language.identifiers import JobId
from domain.language.moments import from_micros, to_micros
from domain.log.upcasting import read
from tests.support.repository import TESTS

RELEASES: Final = sorted((TESTS / "corpus").glob("release_*.jsonl"))


def events_of(path: Path) -> Iterator[Recorded]:
    table, columns = "", []
    for line in path.read_text().splitlines():
        found = json.loads(line)
        if "table" in found:
            table, columns = found["table"], found["columns"]
        elif table == "events" and "row" in found:
            row = dict(zip(columns, found["row"], strict=True))
            job_id = None if row["job_id"] is None else JobId(row["job_id"])
            event = read(row["version"], bytes.fromhex(row["data"]["hex"]))
            yield Recorded(row["position"], from_micros(row["recorded_at"]), job_id, event)


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_each_start_of_a_recorded_log_is_the_one_that_a_claim_would_make_now(path: Path) -> None:
    """Which kinds a claim was for is not recorded; of its own kind, the start was the first."""
    model = WriteModel(KnownLine())
    starts = 0
    for recorded in events_of(path):
        event = recorded.event
        if isinstance(event, JobStarted):
            at = to_micros(recorded.recorded_at)
            [served] = serve(model.line, [event.kind], 1, recorded.position, at).jobs
            assert (served.user_id, served.job_id) == (event.user_id, recorded.job_id)
            starts += 1
        model.evolve(recorded)
    assert starts > 50
