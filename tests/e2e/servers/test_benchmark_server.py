"""The server that benchmarks measure: its no-op has to accept what a submission is."""

from typing import Any

import pytest

from tests.benchmarks.serving import NOOP_PATH, BenchmarkServer

SUBMISSION: dict[str, Any] = {"user_id": "ada", "kind": "echo", "payload": {"width": 640}}


@pytest.mark.one_database
@pytest.mark.parametrize("bare", [False, True], ids=["whole", "bare"])
def test_the_no_op_accepts_a_submission(database_url: str, *, bare: bool) -> None:
    with BenchmarkServer(database_url, bare=bare, settings={}) as server:
        assert server.client.post(NOOP_PATH, json=SUBMISSION).status_code == 202
