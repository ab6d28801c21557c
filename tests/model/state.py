"""A state: what the writers, the database and the callers know."""

from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from tests.model.jobs import (
    Answer,
    Attempts,
    Claim,
    Complete,
    Given,
    Job,
    Log,
    Request,
    Rows,
    Submit,
)


class Rules(Struct, frozen=True, cache_hash=True):
    """The protocol as it is; each field can be set to a fault."""

    is_fenced: bool = True  # a report counts for the current attempt alone
    # Which tries of a batch are looked for in the log before it is decided again.
    looks_for: Literal["every try", "the latest try", "nothing"] = "every try"
    flushes_after_commit: bool = True  # rows are saved once their events are committed
    remembers_end: bool = True  # a new writer is told the end of the log that the last one knew
    minds_overtaking: bool = True  # a rebuild says nothing of its rows if a later one has ended
    # A writer reads its rows again where another one has saved events that it has not seen.
    checks_saved: bool = True
    reads_saved_rows: bool = True  # a query has the rows saved before it reads them


class Node(Struct, frozen=True, cache_hash=True):
    """What one database server has committed."""

    log: Log = ()
    rows: Rows = ()  # of the current generation
    saved: int = 0  # number of events that the rows stand at
    generation: int = 0


class Memory(Struct, frozen=True, cache_hash=True):
    """The state that a writer decides with: the rows in the tables, and what changed since."""

    position: int  # number of events that it stands at
    saved: int  # number of events that the rows in the tables stand at
    generation: int
    changed: tuple[tuple[int, Job], ...] = ()  # job and row, in order


NOBODY: Final = 99  # the service itself, which needs no answer
Batch = tuple[tuple[int, Request], ...]  # each client's place, and what it asks
Answers = tuple[Answer, ...]  # to the requests of a batch, in its order
UNKNOWN: Final[Answers] = ("unknown",)


class Transaction(Struct, frozen=True, cache_hash=True):
    """A transaction that holds the head lock."""

    base: Node  # that it was begun on
    after: Node  # once it is committed
    memory: Memory  # that the writer will have then
    answers: Answers


class Try(Struct, frozen=True, cache_hash=True):
    """A COMMIT without an answer."""

    log: Log  # if it was carried out; stands for the hash
    answers: Answers


class Writer(Struct, frozen=True, cache_hash=True):
    known: Log = ()  # the end of the log that it has written or seen; stands for its hash
    memory: Memory | None = None
    batch: Batch = ()  # whose callers wait
    tries: tuple[Try, ...] = ()  # of the batch
    transaction: Transaction | None = None


class Client(Struct, frozen=True, cache_hash=True):
    """A caller that submits one job, or a worker."""

    name: str
    kind: Literal["with a key", "without a key", "worker"]
    request: Request | None = None  # without an answer yet
    is_sent: bool = False  # a writer has the request
    asked: int = 0  # number of submissions or claims that were made
    holds: Given | None = None  # the attempt of a worker, as far as it knows


class State(Struct, frozen=True, cache_hash=True):
    node: Node
    writers: tuple[Writer, ...]
    clients: tuple[Client, ...]
    replica: Node | None = None  # a server that lags behind
    ended: Attempts = frozenset()  # attempts whose leases have ended by the clock
    told: Log = ()  # the longest log that an answer relied on
    is_cut: bool = False  # a server that lacked events was promoted
    rebuilds: tuple[int, ...] = ()  # generations that are being built
    reserved: int = 0  # the latest generation
    faults: int = 0  # that happened so far


# After how many events of its batch a transaction saves the rows; None: it does not.
Saving = int | None


def next_request(client: Client, claims_max: int) -> Request | None:
    """Return what the client may ask now; None if it waits for an answer, or has no more to ask."""
    if client.is_sent:
        return None
    if client.request is not None:
        return None if client.kind == "without a key" else client.request
    if client.holds is not None:
        return Complete(client.holds.job, client.holds.attempt, client.name)
    if client.kind == "worker":
        name = f"claim {client.asked + 1} of {client.name}"
        return Claim(name, is_again=False) if client.asked < claims_max else None
    return None if client.asked else Submit(client.name, client.kind == "with a key")


def send(client: Client, request: Request) -> Client:
    """Give the client's request to a writer."""
    is_new = client.request is None and not isinstance(request, Complete)
    return replace(client, request=request, is_sent=True, asked=client.asked + is_new)


def hear(client: Client, answer: Answer) -> Client:
    """Take an answer. After an unknown outcome the same request may be sent again."""
    if answer == "unknown":
        request = client.request
        if isinstance(request, Claim):
            request = replace(request, is_again=True)
        return replace(client, request=request, is_sent=False)
    holds = answer if isinstance(answer, Given) else None
    return replace(client, request=None, is_sent=False, holds=holds)
