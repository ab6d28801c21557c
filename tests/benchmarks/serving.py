"""The server under test: `fairlog serve` in a process of its own, with one route more."""

import sys
from collections.abc import Mapping
from typing import Any, Final

from tests.support.repository import ROOT
from tests.support.server import FairlogServer, ending_with_us

NOOP_PATH: Final = "/noop"
SUBMIT_PATH: Final = "/v1/jobs"


class BenchmarkServer(FairlogServer):
    """It starts as `fairlog serve` does; see `tests.benchmarks.serve_with_noop`."""

    def __init__(self, database_url: str, *, bare: bool, settings: Mapping[str, object]) -> None:
        super().__init__(database_url, settings=settings, is_fresh=True)
        self._command = [
            *ending_with_us(),
            sys.executable,
            "-m",
            "tests.benchmarks.serve_with_noop",
            "bare" if bare else "whole",
            "serve",
            "--port",
            str(self.port),
            "--workers",
            "0",
        ]
        self._environment["PYTHONPATH"] = str(ROOT)

    def stats(self) -> dict[str, Any]:
        answer = self.client.get("/v1/stats")
        answer.raise_for_status()
        stats: dict[str, Any] = answer.json()
        return stats
