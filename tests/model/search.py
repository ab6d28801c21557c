"""The search: every state that can be reached in a number of steps, breadth first."""

from collections.abc import Callable, Iterator
from itertools import combinations

from msgspec import Struct
from msgspec.structs import replace

from tests.model import protocol
from tests.model.invariants import violation
from tests.model.jobs import Claim, Complete, Enforce, Request, Submit, fold
from tests.model.scopes import Fault, Scope, start
from tests.model.state import NOBODY, Batch, Rules, Saving, State, Writer, next_request

_ORDER = (Submit, Complete, Enforce, Claim)  # in a batch
_ASKED: dict[type[Request], Callable[..., str]] = {
    Submit: lambda one: one.name,
    Claim: lambda one: one.name,
    Complete: lambda one: f"the outcome of attempt {one.attempt} of job {one.job} by {one.worker}",
    Enforce: lambda _: "the leases that have ended",
}


class Found(Struct, frozen=True):
    """The result of a search."""

    states: int
    depth: int  # steps; all states within it were visited, unless there is a violation
    is_complete: bool = False  # there are no states beyond that depth
    violation: str | None = None
    trace: tuple[str, ...] = ()  # the shortest one that leads to it


def search(scope: Scope, depth_max: int, rules: Rules | None = None) -> Found:
    """Visit all states that are reached in at most `depth_max` steps, until one is a fault.

    States that were visited are kept as their hashes of 64 bits: of a million states, the chance
    that one is taken for another is 1 in 30 million.
    """
    rules = rules or Rules()
    first = start(scope)
    came_from: dict[int, tuple[int, str]] = {hash(first): (0, "")}
    level = [first]
    for depth in range(1, depth_max + 1):
        following = []
        for state in level:
            before = hash(state)
            for name, after in steps(state, scope, rules):
                key = hash(after)
                if key in came_from:
                    continue
                came_from[key] = before, name
                if (wrong := violation(after, rules)) is not None:
                    trace = _trace(came_from, key)
                    return Found(len(came_from), depth, violation=wrong, trace=trace)
                following.append(after)
        level = following
        if not level:
            return Found(len(came_from), depth - 1, is_complete=True)
    return Found(len(came_from), depth_max)


def _trace(came_from: dict[int, tuple[int, str]], key: int) -> tuple[str, ...]:
    names: list[str] = []
    while True:
        key, name = came_from[key]
        if not name:
            return tuple(reversed(names))
        names.append(name)


def steps(state: State, scope: Scope, rules: Rules) -> Iterator[tuple[str, State]]:
    """Yield every step that can be taken, as a sentence, and the state after it."""
    for place in range(scope.writers):
        yield from _begins(state, scope, rules, place)
        name = f"Writer {place + 1}"
        for after, _ in protocol.commit(state, place):
            yield f"{name} commits.", after
        for after in protocol.refuse_commit(state, place):
            yield f"{name} commits, and the cluster refuses it.", after
        for after in protocol.give_up(state, place):
            yield f"{name} answers that the outcome is unknown.", after
        for fault, said, after in _failures(state, rules, place):
            if fault in scope.faults and state.faults < scope.faults_max:
                yield f"{name}{said}", replace(after, faults=state.faults + 1)
    yield from _surroundings(state, scope, rules)


def _begins(state: State, scope: Scope, rules: Rules, place: int) -> Iterator[tuple[str, State]]:
    if place and state.writers[place - 1] == state.writers[place] == Writer():
        return  # nothing tells them apart: let the first begin
    places = (False, True) if state.replica is not None else (False,)
    for batch in _batches(state, scope, state.writers[place]):
        for saving in _savings(state, scope, batch):
            for on_replica in places:
                name = _sentence(place, batch, saving, on_replica=on_replica)
                for after, _ in protocol.begin(
                    state, rules, place, batch, saving, on_replica=on_replica
                ):
                    yield name, after


def _batches(state: State, scope: Scope, writer: Writer) -> Iterator[Batch]:
    """Yield what the writer may take; of a batch that is in doubt, only that, until its time is
    over.
    """
    if writer.batch:
        if len(writer.tries) < scope.tries_max:
            yield writer.batch
        return
    asked: list[tuple[int, Request]] = []
    for place, client in enumerate(state.clients):
        is_like_before = place and state.clients[place - 1] == replace(
            client, name=state.clients[place - 1].name
        )
        if client.kind == "worker" and not client.asked and is_like_before:
            continue  # nothing tells them apart: let the first ask
        if (request := next_request(client, scope.claims_max)) is not None:
            asked.append((place, request))
    if any(
        job.state == "running" and (place, job.attempt) in state.ended
        for place, job in enumerate(fold(state.node.log))
    ):
        asked.append((NOBODY, Enforce()))
    asked.sort(key=lambda one: _ORDER.index(type(one[1])))
    yield ()
    for size in range(1, scope.batch_max + 1):
        yield from combinations(asked, size)


def _savings(state: State, scope: Scope, batch: Batch) -> Iterator[Saving]:
    if batch:
        yield None
    if scope.saves:
        first = 0 if state.node.saved < len(state.node.log) else 1
        yield from range(first, len(batch) + 1)


def _failures(state: State, rules: Rules, place: int) -> Iterator[tuple[Fault, str, State]]:
    for is_carried_out in (True, False):
        how = "carried out" if is_carried_out else "not carried out"
        for after in protocol.lose_commit(state, place, is_carried_out=is_carried_out):
            yield "unknown", f" gets no answer to its COMMIT, which is {how}.", after
    for after in protocol.kill(state, rules, place):
        yield "kill", " is killed, and another one started.", after


def _surroundings(state: State, scope: Scope, rules: Rules) -> Iterator[tuple[str, State]]:
    for job in range(len(fold(state.node.log))):
        for after in protocol.end_lease(state, job):
            yield f"The lease of job {job} ends.", after
    may_fail = state.faults < scope.faults_max
    if may_fail and scope.faults & {"lag", "promotion"}:
        for after in protocol.fall_behind(state):
            yield "A server falls behind.", replace(after, faults=state.faults + 1)
    for after in protocol.catch_up(state):
        yield "The server has caught up.", after
    if may_fail and "promotion" in scope.faults:
        for after in protocol.promote(state):
            yield "The server that is behind is promoted.", after
    if state.reserved < scope.rebuilds_max:
        for after in protocol.begin_rebuild(state):
            yield f"Rebuild {after.reserved} begins.", after
    for generation in state.rebuilds:
        for after in protocol.end_rebuild(state, rules, generation):
            yield f"Rebuild {generation} ends.", after


def _sentence(place: int, batch: Batch, saving: Saving, *, on_replica: bool) -> str:
    asked = ", ".join(_ASKED[type(request)](request) for _, request in batch) or "nothing"
    where = " on the server that is behind" if on_replica else ""
    saves = "" if saving is None else f" and saves the rows after {saving} of its events"
    return f"Writer {place + 1} begins{where}, decides {asked}{saves}."
