"""What `fairlog verify` finds wrong with the log, or with a projection of it."""

from collections.abc import Callable

from msgspec import Struct


class Finding(Struct, frozen=True, tag=True):
    """The log is not as it was written, or could not have been written by the rules."""

    position: int | None  # None: about no single event
    what: str

    def __str__(self) -> str:
        return self.what if self.position is None else f"event {self.position}: {self.what}"


class Difference(Struct, frozen=True, tag=True):
    """A row of a projection is not what the log gives; only what differs is told."""

    projection: str
    table: str
    key: str  # the key columns without the generation
    live: str  # "no row" for one that is missing
    from_log: str  # the same, for one that should not be there

    def __str__(self) -> str:
        return (
            f"projection {self.projection}, {self.table} {self.key}: "
            f"live {self.live}, from the log {self.from_log}"
        )


Report = Callable[[Finding | Difference], None]


class FindingsSink:
    """Passes findings on as they come, and remembers only how many there were."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.findings = 0
        self.differing: dict[str, None] = {}  # projections, in the order of telling

    def about(self, position: int | None, what: str) -> None:
        self.found(Finding(position, what))

    def found(self, one: Finding | Difference) -> None:
        if isinstance(one, Difference):
            self.differing[one.projection] = None
        else:
            self.findings += 1
        self._report(one)
