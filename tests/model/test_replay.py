"""A trace that the protocol allows is accepted, and refused once any answer in it is changed."""

import pytest
from msgspec.structs import replace

from tests.model.jobs import (
    Accepted,
    Answer,
    Claim,
    Complete,
    Enforce,
    Event,
    Given,
    Request,
    Submit,
)
from tests.model.replay import (
    Call,
    Calls,
    LeasesEnded,
    Looked,
    NotAllowedError,
    Queried,
    Step,
    replay,
)
from tests.model.state import NOBODY, Client, Node, State, Writer

CLIENTS = (Client("a", "with a key"), Client("ann", "worker"), Client("bob", "worker"))
START = State(Node(), (Writer(), Writer()), CLIENTS)
SUBMITTER, ANN, BOB = range(3)


def call(writer: int, client: int, request: Request, answer: Answer, *, lost_max: int = 0) -> Calls:
    return Calls((Call(writer, ((client, request),), (answer,)),), lost_max)


TRACE: list[Step] = [
    call(0, SUBMITTER, Submit("a", is_keyed=True), "unknown", lost_max=1),
    call(1, SUBMITTER, Submit("a", is_keyed=True), Accepted(0, is_duplicate=True)),
    call(0, ANN, Claim("claim 1 of ann", is_again=False), Given(0, 1)),
    call(1, BOB, Claim("claim 1 of bob", is_again=False), "no job"),
    LeasesEnded(),
    call(1, NOBODY, Enforce(), "enforced"),
    call(1, BOB, Claim("claim 2 of bob", is_again=False), Given(0, 2)),
    call(0, ANN, Complete(0, 1, "ann"), "refused"),
    call(0, BOB, Complete(0, 2, "bob"), "completed"),
    Calls((Call(1, (), ()),)),
    Queried((("done", 2),)),
    Looked(
        (
            Event("submitted", 0, 0, "a"),
            Event("started", 0, 1, "claim 1 of ann"),
            Event("requeued", 0, 1, ""),
            Event("started", 0, 2, "claim 2 of bob"),
            Event("completed", 0, 2, "bob"),
        ),
        saved=5,
    ),
]


def test_an_allowed_trace_is_accepted() -> None:
    assert replay([START], TRACE)


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (1, Accepted(1, is_duplicate=False)),
        (2, Given(0, 2)),
        (2, "no job"),
        (3, Given(0, 1)),
        (6, Given(0, 1)),
        (7, "completed"),
        (8, "refused"),
    ],
)
def test_a_changed_answer_is_refused(number: int, answer: Answer) -> None:
    step = TRACE[number]
    assert isinstance(step, Calls)
    changed = Calls((replace(step.calls[0], answers=(answer,)),))
    with pytest.raises(NotAllowedError):
        replay([START], [*TRACE[:number], changed, *TRACE[number + 1 :]])


@pytest.mark.parametrize("number", [4, 5, 6])
def test_a_trace_without_one_of_its_steps_is_refused(number: int) -> None:
    with pytest.raises(NotAllowedError):
        replay([START], [*TRACE[:number], *TRACE[number + 1 :]])


def test_other_rows_or_events_than_the_answers_gave_are_refused() -> None:
    looked = TRACE[-1]
    assert isinstance(looked, Looked)
    for changed in (
        Queried((("done", 1),)),
        replace(looked, saved=4),
        replace(looked, log=looked.log[:-1]),
    ):
        with pytest.raises(NotAllowedError):
            replay([START], [*TRACE[:-2], changed])
