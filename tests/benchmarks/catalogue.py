"""The benchmarks, in the order in which they run and are shown."""

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Final, Protocol, cast

from tests.benchmarks.figures import Figure
from tests.benchmarks.site import Site

# One that has not been written yet is left out with a note.
NAMES: Final = (
    "submit",
    "keys",
    "python_client",
    "append",
    "refuse",
    "lifecycle",
    "databases",
    "drain",
    "outbox",
    "claim_growth",
    "read_growth",
    "rebuild",
    "verify",
    "archive",
    "statements",
    "disk",
    "latency",
    "dashboard",
)


class Benchmark(Protocol):
    """A module of this package."""

    __doc__: str | None  # goes into the report

    def run(self, site: Site, /) -> Iterator[Figure]:
        """Measure; a figure may be given as soon as it is there."""


def present() -> list[str]:
    return [name for name in NAMES if importlib.util.find_spec(f"tests.benchmarks.{name}")]


def load(name: str) -> Benchmark:
    return cast("Benchmark", importlib.import_module(f"tests.benchmarks.{name}"))
