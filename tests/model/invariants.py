"""What holds in every state. Each check returns a sentence about what does not; None if it holds.

They are independent of how the service decides: they look at the log, the rows and the answers.
"""

from functools import cache

from tests.model.jobs import Log, fold
from tests.model.protocol import read
from tests.model.state import Rules, State


def violation(state: State, rules: Rules) -> str | None:
    """Return the first sentence about an invariant that does not hold; None if all hold."""
    return (
        _of_log(state.node.log) or _of_answers(state) or _of_rows(state) or _of_read(state, rules)
    )


@cache
def _of_log(log: Log) -> str | None:
    """Check that each event could follow, and that no request was carried out twice."""
    current: dict[int, tuple[str, int]] = {}  # state and attempt of each job
    seen: set[str] = set()
    for event in log:
        if event.what in {"submitted", "started"}:
            if event.by in seen:
                return f"The {event.by!r} was carried out twice."
            seen.add(event.by)
        state, attempt = current.get(event.job, ("none", 0))
        match event.what:
            case "submitted":
                is_legal = state == "none"
            case "started":
                is_legal = state == "waiting" and event.attempt == attempt + 1
            case "requeued" | "completed":
                is_legal = state == "running" and event.attempt == attempt
        if not is_legal:
            return (
                f"The event {event.what!r} of attempt {event.attempt} follows where job "
                f"{event.job} is {state} in attempt {attempt}."
            )
        after = {"submitted": "waiting", "started": "running", "requeued": "waiting"}
        current[event.job] = after.get(event.what, "done"), event.attempt
    return None


def _of_answers(state: State) -> str | None:
    """Check that what was answered is in the log, each event in its place.

    Where a server that lacked events was promoted, the log may end before them.
    """
    log, told = state.node.log, state.told
    if state.is_cut:
        told = told[: len(log)]
    if log[: len(told)] != told:
        return "An event that an answer relied on is not in its place in the log."
    return None


def _of_rows(state: State) -> str | None:
    """Check that the rows are the fold of the log up to where they are said to stand."""
    node = state.node
    if node.saved > len(node.log):
        return f"The rows stand at {node.saved}, and the log ends at {len(node.log)}."
    if node.rows != fold(node.log[: node.saved]):
        return f"The rows are not the fold of the log up to {node.saved}."
    return None


def _of_read(state: State, rules: Rules) -> str | None:
    """Check that a query sees all that was answered before it."""
    if read(state.node, rules) != fold(state.node.log):
        return "A query does not see what was answered."
    return None
