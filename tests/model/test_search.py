"""The search finds each planted fault, and none in the protocol as it is."""

import pytest

from tests.model.scopes import FAULTS, SCOPES, Scope
from tests.model.search import search
from tests.model.state import Rules

DEPTH_MAX = 100  # more than any scope has


@pytest.mark.parametrize("name", SCOPES)
def test_no_state_of_the_protocol_breaks_an_invariant(name: str) -> None:
    found = search(SCOPES[name], DEPTH_MAX)
    assert found.violation is None, "\n".join(found.trace)
    assert found.is_complete


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found(fault: str) -> None:
    name, rules, sentence = FAULTS[fault]
    found = search(SCOPES[name], DEPTH_MAX, rules)
    print("\n".join([*found.trace, str(found.violation)]))
    assert found.violation is not None
    assert sentence in found.violation
    assert len(found.trace) == found.depth


def test_a_trace_is_the_shortest_one_and_can_be_read() -> None:
    name, rules, _ = FAULTS["a look for the latest try alone"]
    assert search(SCOPES[name], DEPTH_MAX, rules).trace == (
        "Writer 1 begins, decides submission 2.",
        "A server falls behind.",
        "Writer 1 gets no answer to its COMMIT, which is carried out.",
        "Writer 1 begins on the server that is behind, decides submission 2.",
        "Writer 1 commits, and the cluster refuses it.",
        "Writer 1 begins, decides submission 2.",
        "Writer 1 commits.",
    )


def test_a_server_that_has_seen_less_does_not_notice_that_events_are_lost() -> None:
    """Show a limit of the protocol: each writer knows only the end that it has seen itself."""
    scope = Scope(
        writers=2,
        submissions=("with a key", "without a key"),
        faults=frozenset({"promotion"}),
        faults_max=2,
    )
    found = search(scope, DEPTH_MAX, Rules())
    assert found.violation == "An event that an answer relied on is not in its place in the log."
    assert found.trace[-2:] == ("Writer 2 begins, decides submission 2.", "Writer 2 commits.")
