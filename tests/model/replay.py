"""Replay of a trace of the real service: whether the protocol allows what was asked and answered.

A trace does not say which COMMITs were carried out, when rows were saved, or who of two writers
came first. So all states are followed that agree with the trace so far; where none is left, the
trace is refused.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tests.model import protocol
from tests.model.invariants import violation
from tests.model.jobs import Enforce, Log, Rows, fold
from tests.model.state import (
    NOBODY,
    UNKNOWN,
    Answers,
    Batch,
    Rules,
    Saving,
    State,
    Transaction,
    next_request,
)

CLAIMS_MAX: Final = 1_000  # of a worker


class Call(Struct, frozen=True, cache_hash=True):
    """A batch that a writer was given, and its answers. An empty one asks to save the rows."""

    writer: int
    batch: Batch
    answers: Answers


class Calls(Struct, frozen=True):
    """Batches of different writers that were given at the same time."""

    calls: tuple[Call, ...]
    lost_max: int = 0  # COMMITs whose answers were lost


class LeasesEnded(Struct, frozen=True):
    """The clock was moved past the end of every lease."""


class Killed(Struct, frozen=True):
    """A writer was ended and another one started in its place."""

    writer: int


class Rebuilt(Struct, frozen=True):
    """The rows were built anew."""


class Looked(Struct, frozen=True):
    """The database was looked at."""

    log: Log
    saved: int


class Queried(Struct, frozen=True):
    """A query was answered: the state and attempt of each job."""

    jobs: tuple[tuple[str, int], ...]


Step = Calls | LeasesEnded | Killed | Rebuilt | Looked | Queried


class NotAllowedError(Exception):
    """The protocol does not allow the step of a trace."""


def replay(states: Collection[State], trace: Sequence[Step]) -> list[Collection[State]]:
    """Return the states that agree with the trace after each of its steps.

    It begins in one of `states`. Raises `NotAllowedError`.
    """
    followed: list[Collection[State]] = []
    for place, step in enumerate(trace):
        bound = next((one for one in trace[place:] if isinstance(one, Looked)), None)
        states = {after for state in states for after in _follow(state, step, bound)}
        if not states:
            raise NotAllowedError(f"Step {place + 1} of {len(trace)} is not allowed: {step}")
        for state in states:
            if (wrong := violation(state, Rules())) is not None:
                raise NotAllowedError(f"After step {place + 1}: {wrong}")
        followed.append(states)
    return followed


def _follow(state: State, step: Step, bound: Looked | None) -> Iterable[State]:
    """Return the states after the step. `bound` is what the next look at the database gave."""
    match step:
        case Calls():
            return _answered(state, step, bound)
        case LeasesEnded():
            return [_with_ended_leases(state)]
        case Killed(writer):
            return [*protocol.kill(state, Rules(), writer)] or [state]
        case Rebuilt():
            [begun] = protocol.begin_rebuild(state)
            return protocol.end_rebuild(begun, Rules(), begun.reserved)
        case Looked(log, saved):
            return [state] if (state.node.log, state.node.saved) == (log, saved) else []
        case Queried(jobs):
            is_saved = state.node.saved == len(state.node.log)
            return [state] if is_saved and _shown(state.node.rows) == jobs else []


def _shown(rows: Rows) -> tuple[tuple[str, int], ...]:
    return tuple((job.state, job.attempt) for job in rows)


def _with_ended_leases(state: State) -> State:
    for job in range(len(fold(state.node.log))):
        for after in protocol.end_lease(state, job):
            state = after
    return state


def _answered(state: State, step: Calls, bound: Looked | None) -> Iterator[State]:
    """Yield the states in which each call had its answers, in any order of their steps."""
    may_fail = step.lost_max > 0
    seen = set()
    todo = [(state, step.calls, 0)]
    while todo:
        now = todo.pop()
        if now in seen:
            continue
        seen.add(now)
        state, waiting, lost = now
        if not waiting:
            yield _settled(state)
        for call in waiting:
            others = tuple(one for one in waiting if one is not call)
            for after, answers, is_lost in _steps(state, call, bound, may_fail=may_fail):
                if answers == call.answers:
                    todo.append((after, others, lost))
                elif (
                    answers is None
                    and lost + is_lost <= step.lost_max
                    and _may_be(after.writers[call.writer].transaction, call, bound)
                ):
                    todo.append((after, waiting, lost + is_lost))


def _may_be(opened: Transaction | None, call: Call, bound: Looked | None) -> bool:
    """Return False for a transaction that cannot have been carried out. One that was not, and for
    which others were decided later, changes nothing, so it need not be followed.
    """
    if opened is None:
        return True
    after = opened.after
    is_within = bound is None or (
        after.saved <= bound.saved and bound.log[: len(after.log)] == _plain(after.log)
    )
    return is_within and call.answers in {opened.answers, UNKNOWN * len(call.batch)}


def _settled(state: State) -> State:
    """Return the state without the tries of batches that are answered: they matter no more."""
    writers = tuple(replace(one, known=_plain(one.known)) for one in state.writers)
    node = replace(state.node, log=_plain(state.node.log))
    return replace(state, node=node, writers=writers, told=_plain(state.told))


def _plain(log: Log) -> Log:
    return tuple(replace(event, tries=0) for event in log)


def _steps(
    state: State, call: Call, bound: Looked | None, *, may_fail: bool
) -> Iterator[tuple[State, Answers | None, bool]]:
    """Yield the next steps of a call with the answers, None before there are any, and True if the
    answer to a COMMIT was lost.
    """
    writer = state.writers[call.writer]
    if writer.transaction is not None:
        for after, answers in protocol.commit(state, call.writer):
            yield after, answers, False
        for is_carried_out in (True, False):
            for after in protocol.lose_commit(state, call.writer, is_carried_out=is_carried_out):
                yield after, None, True
        return
    if writer.batch:
        for after in protocol.give_up(state, call.writer):
            yield after, UNKNOWN * len(call.batch), False
    elif _may_ask(state, call.batch):
        if call.batch or may_fail:  # what asks for rows is answered nothing, and may have failed
            lost = protocol.lose_batch(state, call.writer, call.batch)
            yield lost, UNKNOWN * len(call.batch), False
    else:
        return
    savings: list[Saving] = [None] if call.batch else [0]
    if call.batch and (bound is None or bound.saved > state.node.saved):
        events_max = len(call.batch) + sum(job.state == "running" for job in fold(state.node.log))
        savings += range(events_max + 1)
    for saving in savings:
        for after, answers in protocol.begin(state, Rules(), call.writer, call.batch, saving):
            has_begun = after.writers[call.writer].transaction is not None
            yield after, None if has_begun else answers, False


def _may_ask(state: State, batch: Batch) -> bool:
    return all(
        isinstance(request, Enforce)
        if client == NOBODY
        else next_request(state.clients[client], CLAIMS_MAX) == request
        for client, request in batch
    )
