"""What `fairlog accept-loss` says of decisions that are undone with lost events."""

import pytest

from adapters.log import lost_events
from domain.language.events import Event, KeyRevoked, Recorded, ScheduleDeleted
from domain.language.identifiers import KeyName, ScheduleName
from entrypoints.cli.failure import CommandFailed
from tests.support.command_line import Run, commands_on
from tests.support.core import service
from tests.support.given import NOW
from tests.support.stories import ALICE, ECHO, admitted

pytestmark = pytest.mark.one_database  # what a command says is the same on each
DO_AGAIN = "Do it again."


@pytest.fixture
def run(database_url: str) -> Run:
    return commands_on(database_url)


def report(database_url: str, event: Event) -> None:
    """Report one event as lost, of which all is known."""
    with service(database_url) as fairlog, fairlog.database.write() as connection:
        lost_events.report(connection, 0, 1, [Recorded(1, NOW, None, event)])


def test_nothing_is_to_be_done_again_if_only_submissions_are_lost(
    run: Run, database_url: str
) -> None:
    report(database_url, admitted())
    shown = run("accept-loss")
    assert "RateLimitDecided" in shown
    assert DO_AGAIN not in shown


@pytest.mark.parametrize(
    "event",
    [
        KeyRevoked(name=KeyName("k")),
        ScheduleDeleted(name=ScheduleName("s"), user_id=ALICE, kind=ECHO),
    ],
    ids=lambda one: type(one).__name__,
)
def test_decisions_that_hold_no_longer_are_to_be_made_again(
    run: Run, database_url: str, event: Event
) -> None:
    report(database_url, event)
    assert DO_AGAIN in run("accept-loss")


def test_where_nobody_knows_what_is_lost_the_command_says_so(run: Run) -> None:
    assert "No server has reported" in run("accept-loss")
    with pytest.raises(CommandFailed, match="--known"):
        run("accept-loss", "--at", 0)
    shown = run("accept-loss", "--at", 0, "--known", 3)
    assert "3  of which only the position is known" in shown
    assert DO_AGAIN in shown
    shown = run("accept-loss", "--at", 4, "--forget")
    assert "No server has reported" in shown
    assert DO_AGAIN in shown
