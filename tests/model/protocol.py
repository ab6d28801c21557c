"""The protocol: the steps of the writers, the database, the clock and the rebuilds.

Each step is a function from a state to the states that may follow; none where it cannot be taken.
The parts of a transaction before its COMMIT are one step, since the head lock keeps others out.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from tests.model.jobs import Log, Rows, decide_all, evolve, fold, with_row
from tests.model.state import (
    NOBODY,
    UNKNOWN,
    Answers,
    Batch,
    Memory,
    Node,
    Rules,
    Saving,
    State,
    Transaction,
    Try,
    Writer,
    hear,
    send,
)


def begin(
    state: State,
    rules: Rules,
    place: int,
    batch: Batch,
    saving: Saving = None,
    *,
    on_replica: bool = False,
) -> Iterator[tuple[State, Answers]]:
    """Take the head lock, decide the batch and append its events, all but the COMMIT.

    Yields the states with the answers that are given at once. They are given if the log has the
    batch already, and if the batch changes nothing. A batch that is in doubt is tried again,
    whatever `batch` is.
    """
    node = state.replica if on_replica else state.node
    writer = state.writers[place]
    if node is None or _is_locked(state):
        return
    if node.log[: len(writer.known)] != writer.known:
        return  # events are lost: nothing is written
    if not writer.batch:
        state = _with_requests(state, batch)
        writer = replace(writer, batch=batch)
    writer = replace(writer, known=node.log)
    if (found := _written_before(writer, node, rules)) is not None:
        yield _answer(state, place, writer, node.log, found.answers), found.answers
        return
    memory = _caught_up(writer.memory, node, rules)
    rows = _rows(node, memory)
    requests = [request for _, request in writer.batch]
    for decided, answers in decide_all(rows, requests, state.ended, is_fenced=rules.is_fenced):
        events = tuple(replace(one, tries=len(writer.tries)) for one in decided)
        if saving is not None and saving > len(events):
            continue
        opened = _transaction(node, memory, events, answers, saving)
        if opened.after == node:
            kept = replace(writer, memory=opened.memory)
            yield _answer(state, place, kept, node.log, answers), answers
            continue
        begun = state
        if not rules.flushes_after_commit:
            begun, opened = _flushed_before_commit(state, opened)
        writing = replace(writer, memory=None, transaction=opened)
        yield _with_writer(begun, place, writing), ()


def _transaction(
    node: Node, memory: Memory, events: Log, answers: Answers, saving: Saving
) -> Transaction:
    """Append events to the end of the log at which the memory stands, and save rows."""
    after = replace(node, log=node.log + events)
    if saving is not None:
        memory = _folded(memory, _rows(node, memory), events[:saving])
        after = replace(after, rows=_rows(node, memory), saved=memory.position)
        memory, events = _saved(memory), events[saving:]
    memory = _folded(memory, _rows(after, memory), events)
    return Transaction(node, after, memory, answers)


def _flushed_before_commit(state: State, opened: Transaction) -> tuple[State, Transaction]:
    """Save the rows of events that are not committed yet, which is a fault."""
    rows, memory = _rows(opened.after, opened.memory), _saved(opened.memory)
    base = replace(opened.base, rows=rows, saved=memory.saved)
    after = replace(base, log=opened.after.log)
    return replace(state, node=base), Transaction(base, after, memory, opened.answers)


def _with_requests(state: State, batch: Batch) -> State:
    clients = list(state.clients)
    for client, request in batch:
        if client != NOBODY:
            clients[client] = send(clients[client], request)
    return replace(state, clients=tuple(clients))


def _written_before(writer: Writer, node: Node, rules: Rules) -> Try | None:
    """Return the try of the batch that the log has."""
    tries = writer.tries
    if rules.looks_for != "every try":
        tries = tries[-1:] if rules.looks_for == "the latest try" else ()
    return next((one for one in tries if node.log[: len(one.log)] == one.log), None)


def _caught_up(memory: Memory | None, node: Node, rules: Rules) -> Memory:
    """Return what is known, or else an empty memory at the rows, folded to the end of the log."""
    if memory is not None:
        if (
            memory.generation != node.generation
            or memory.position > len(node.log)
            or (rules.checks_saved and node.saved not in {memory.saved, memory.position})
        ):
            memory = None
        elif node.saved == memory.position:  # another writer has saved what this one knows
            memory = _saved(memory)
    memory = memory or Memory(node.saved, node.saved, node.generation)
    return _folded(memory, _rows(node, memory), node.log[memory.position :])


def _rows(node: Node, memory: Memory) -> Rows:
    """Return the rows that the writer sees."""
    rows = node.rows
    for job, row in memory.changed:
        rows = with_row(rows, job, row)
    return rows


def _folded(memory: Memory, rows: Rows, events: Log) -> Memory:
    """Return the memory after events that follow the rows."""
    changed = dict(memory.changed)
    for event in events:
        rows = evolve(rows, event)
        changed[event.job] = rows[event.job]
    return replace(
        memory, position=memory.position + len(events), changed=tuple(sorted(changed.items()))
    )


def _saved(memory: Memory) -> Memory:
    """Return the memory after its changed rows were written: they stand at its position."""
    return replace(memory, saved=memory.position, changed=())


def commit(state: State, place: int) -> Iterator[tuple[State, Answers]]:
    """Commit the transaction, and answer the callers of its batch."""
    writer = state.writers[place]
    if (opened := writer.transaction) is not None and opened.base == state.node:
        writer = replace(writer, known=opened.after.log, memory=opened.memory, transaction=None)
        state = replace(state, node=opened.after)
        yield _answer(state, place, writer, opened.after.log, opened.answers), opened.answers


def lose_commit(state: State, place: int, *, is_carried_out: bool) -> Iterator[State]:
    """Lose the answer to the COMMIT."""
    writer = state.writers[place]
    if (opened := writer.transaction) is not None and opened.base == state.node:
        node = opened.after if is_carried_out else state.node
        yield _with_writer(replace(state, node=node), place, _in_doubt(writer, opened))


def refuse_commit(state: State, place: int) -> Iterator[State]:
    """Refuse what was begun on a server that lags: a cluster certifies each COMMIT."""
    writer = state.writers[place]
    if (opened := writer.transaction) is not None and opened.base != state.node:
        yield _with_writer(state, place, _in_doubt(writer, opened))


def _in_doubt(writer: Writer, opened: Transaction) -> Writer:
    """Return the writer without what it knew of the transaction."""
    tries = writer.tries
    if opened.after.log != opened.base.log:  # else it can simply be decided again
        tries = (*tries, Try(opened.after.log, opened.answers))
    return replace(writer, tries=tries, transaction=None)


def give_up(state: State, place: int) -> Iterator[State]:
    """Answer that the outcome is unknown, when the time of the batch is over."""
    writer = state.writers[place]
    if writer.batch and writer.transaction is None:
        yield _answer(state, place, writer, (), UNKNOWN * len(writer.batch))


def lose_batch(state: State, place: int, batch: Batch) -> State:
    """Answer that the outcome is unknown to a batch that was not begun: the database was away.

    The search leaves this step out, since an error before the COMMIT leads to the same.
    """
    state = _with_requests(state, batch)
    writer = replace(state.writers[place], batch=batch)
    return _answer(state, place, writer, (), UNKNOWN * len(batch))


def kill(state: State, rules: Rules, place: int) -> Iterator[State]:
    """End the writer and start another one, which knows the same end of the log."""
    writer = state.writers[place]
    fresh = Writer(known=writer.known if rules.remembers_end else (), batch=writer.batch)
    if fresh != writer or writer.batch:
        yield _answer(state, place, fresh, (), UNKNOWN * len(writer.batch))


def _answer(state: State, place: int, writer: Writer, log: Log, answers: Answers) -> State:
    """Answer the callers of the batch. What they are told relies on this log."""
    clients = list(state.clients)
    for (client, _), answer in zip(writer.batch, answers, strict=True):
        if client != NOBODY:
            clients[client] = hear(clients[client], answer)
    told = log if writer.batch and len(log) > len(state.told) else state.told
    state = replace(state, clients=tuple(clients), told=told)
    return _with_writer(state, place, replace(writer, batch=(), tries=()))


def _with_writer(state: State, place: int, writer: Writer) -> State:
    writers = state.writers
    return replace(state, writers=(*writers[:place], writer, *writers[place + 1 :]))


# The database, the clock and the rebuilds


def end_lease(state: State, job: int) -> Iterator[State]:
    """Let the lease of a job's attempt end by the clock. No event says so yet."""
    rows = fold(state.node.log)
    attempt = (job, rows[job].attempt)
    if rows[job].state == "running" and attempt not in state.ended:
        yield replace(state, ended=state.ended | {attempt})


def fall_behind(state: State) -> Iterator[State]:
    """Let a server have what is committed now, and nothing that comes later."""
    if state.replica is None:
        yield replace(state, replica=state.node)


def catch_up(state: State) -> Iterator[State]:
    if state.replica is not None:
        yield replace(state, replica=None)


def promote(state: State) -> Iterator[State]:
    """Make the server that lags the only one: the later events are gone."""
    if state.replica is not None and state.replica.log != state.node.log and not _is_locked(state):
        yield replace(state, node=state.replica, replica=None, is_cut=True)


def begin_rebuild(state: State) -> Iterator[State]:
    """Reserve a generation."""
    generation = state.reserved + 1
    yield replace(state, reserved=generation, rebuilds=(*state.rebuilds, generation))


def end_rebuild(state: State, rules: Rules, generation: int) -> Iterator[State]:
    """Fold the log to its end and switch to the new rows, under the head lock."""
    if _is_locked(state) or generation not in state.rebuilds:
        return
    node = state.node
    if node.generation < generation:
        node = Node(node.log, fold(node.log), len(node.log), generation)
    elif not rules.minds_overtaking:
        node = replace(node, saved=len(node.log))  # where its own rows stand
    left = tuple(one for one in state.rebuilds if one != generation)
    yield replace(state, node=node, rebuilds=left)


def _is_locked(state: State) -> bool:
    return any(one.transaction for one in state.writers)


def read(node: Node, rules: Rules) -> Rows:
    """Return the rows that a query sees: it has them saved before, by any writer."""
    rows = node.rows
    for event in node.log[node.saved :] if rules.reads_saved_rows else ():
        rows = evolve(rows, event)
    return rows
