"""The scopes of the searches: what takes part, and how often something fails.

Each scope is finite, so that all its states can be visited.
"""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from tests.model.state import Client, Node, Rules, State, Writer

Fault = Literal["unknown", "kill", "lag", "promotion"]


class Scope(Struct, frozen=True):
    """What takes part in a search, and how often."""

    writers: int = 1
    submissions: tuple[Literal["with a key", "without a key"], ...] = ("with a key",)
    workers: int = 0
    claims_max: int = 2  # of each worker
    batch_max: int = 1  # requests
    tries_max: int = 3  # of a batch
    saves: bool = True
    faults: frozenset[Fault] = frozenset()
    faults_max: int = 1  # in one trace
    rebuilds_max: int = 0


_TWO: Final = ("with a key", "without a key")

# `make test` visits all states of these.
SCOPES: Final[Mapping[str, Scope]] = {
    "attempts": Scope(workers=2, saves=False, batch_max=2, faults=frozenset({"kill", "unknown"})),
    "commits": Scope(
        writers=2,
        submissions=_TWO,
        batch_max=2,
        faults=frozenset({"unknown", "kill", "lag"}),
        faults_max=2,
    ),
    "rows": Scope(writers=2, workers=1, claims_max=1, faults=frozenset({"kill"}), rebuilds_max=2),
    "losses": Scope(
        submissions=_TWO, faults=frozenset({"unknown", "kill", "promotion"}), faults_max=3
    ),
}
# `python -m tests.model` visits all states of these, which takes two minutes.
LARGER: Final[Mapping[str, Scope]] = {
    "attempts": replace(SCOPES["attempts"], writers=2),
    "commits": replace(SCOPES["commits"], faults_max=4, tries_max=4),
    "rows": replace(SCOPES["rows"], faults=frozenset({"unknown", "kill"}), faults_max=2),
    "losses": replace(SCOPES["losses"], submissions=(*_TWO, "with a key")),
}
# All at once; it is finite too, but only a part of it can be visited.
EVERYTHING: Final = Scope(
    writers=2,
    submissions=_TWO,
    workers=2,
    batch_max=2,
    faults=frozenset({"unknown", "kill", "lag"}),
    rebuilds_max=2,
)

_TWICE: Final = "was carried out twice"
_OTHER_ROWS: Final = "The rows are not the fold of the log"

# Each fault that a search must find, with the scope, the rules and a part of what it says.
FAULTS: Final[Mapping[str, tuple[str, Rules, str]]] = {
    "a completion without a fence": (
        "attempts",
        Rules(is_fenced=False),
        "The event 'completed' of attempt 1 follows where job 0 is running in attempt 2.",
    ),
    "an unknown COMMIT tried again without a look": (
        "commits",
        Rules(looks_for="nothing"),
        _TWICE,
    ),
    "a look for the latest try alone": ("commits", Rules(looks_for="the latest try"), _TWICE),
    "a flush before the commit": (
        "rows",
        Rules(flushes_after_commit=False),
        "The rows stand at 1, and the log ends at 0.",
    ),
    "rows that another writer has saved, mixed with those in memory": (
        "rows",
        Rules(checks_saved=False),
        _OTHER_ROWS,
    ),
    "an overtaken rebuild that says where its rows stand": (
        "rows",
        Rules(minds_overtaking=False),
        _OTHER_ROWS,
    ),
    "a query that does not have the rows saved": (
        "rows",
        Rules(reads_saved_rows=False),
        "A query does not see what was answered.",
    ),
    "a new writer that does not know the end of the log": (
        "losses",
        Rules(remembers_end=False),
        "An event that an answer relied on is not in its place in the log.",
    ),
}


def start(scope: Scope) -> State:
    submitters = [
        Client(f"submission {number}", kind)
        for number, kind in enumerate(scope.submissions, start=1)
    ]
    workers = [Client(f"worker {number}", "worker") for number in range(1, scope.workers + 1)]
    writers = (Writer(),) * scope.writers
    return State(Node(), writers, (*submitters, *workers))
