"""`fairlog schedules`."""

import json

import pytest

from domain.language.errors import InvalidInput, TooManyTimes, UnknownSchedule
from entrypoints.processes.registration import SettingsDiffer
from tests.support.command_line import Run, commands_on
from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # what a command says is the same on each

SPAN = ["--from", "2020-01-01T00:00:00Z", "--until", "2026-01-01T00:00:00Z"]
NIGHTLY = ["--user", "acme", "--kind", "report", "--cron", "30 3 * * *", "--payload", '{"n":1}']


@pytest.fixture
def run(database_url: str) -> Run:
    return commands_on(database_url, "schedules", notes=True)


def test_a_schedule_is_set_shown_run_and_deleted(run: Run) -> None:
    assert "The next due time is" in run(
        "set", "nightly", *NIGHTLY, "--time-zone", "Europe/Berlin", "--overlap", "cancel_other"
    )
    shown = json.loads(run("show", "nightly", "--format", "json"))
    assert (shown["cron"], shown["payload"]) == ("30 3 * * *", {"n": 1})
    assert "time zone: Europe/Berlin" in run("show", "nightly")
    listed = run("list")
    assert listed.startswith("nightly; user acme; kind report; 30 3 * * * Europe/Berlin; next ")
    assert "not run yet" in listed
    assert run("trigger", "nightly").startswith("submitted job ")
    assert "submitted as job" in run("list")
    assert run("pause", "nightly") == "Paused.\n"
    assert "; paused; " in run("list")
    assert "The next due time is" in run("resume", "nightly")
    after = json.loads(run("show", "nightly", "--format", "json"))
    assert {name: after[name] for name in shown if name not in {"changed_at", "last_run"}} == {
        name: shown[name] if name != "last_job_id" else after["last_job_id"]
        for name in shown
        if name not in {"changed_at", "last_run"}
    }
    span = ["--from", "2026-01-01T00:00:00Z", "--until", "2026-01-04T00:00:00Z"]
    assert "Begun" in run("backfill", "nightly", *span)
    assert json.loads(run("list", "--format", "json"))["backfill"]["until"] == span[3]
    run("delete", "nightly")
    assert run("list") == ""


def test_the_state_at_a_position_names_schedules_and_endpoints(database_url: str) -> None:
    run = commands_on(database_url)
    run("schedules", "set", "nightly", *NIGHTLY)
    run("callbacks", "set", "orders", "https://example.org/hooks", "--kind", "report")
    run("schedules", "pause", "nightly")
    then = [run("audit", "state", "--as-of", position) for position in (1, 2, 3)]
    line = "schedule nightly; user acme; kind report; 30 3 * * * UTC; next "
    assert [line in one for one in then] == [True, True, False]
    assert "30 3 * * * UTC; paused; not run yet\n" in then[2]
    line = "callbacks orders; https://example.org/hooks; kinds report; all users; secret 1\n"
    assert [line in one for one in then] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["show", "none"], UnknownSchedule, "fairlog schedules set"),
        (["pause", "none"], UnknownSchedule, "There is no schedule"),
        (["set", "n", *NIGHTLY, "--every", 5], InvalidInput, "not both"),
        (["set", "n", *NIGHTLY, "--payload", "{"], InvalidInput, "--payload is not JSON"),
        (["set", "n", *NIGHTLY, "--payload", '"\udcff"'], InvalidInput, "--payload is not JSON"),
        (["set", "n", *NIGHTLY, "--time-zone", "Mars"], InvalidInput, "Europe/Berlin"),
        (
            ["backfill", "minutely", *SPAN],
            TooManyTimes,
            "At most 1,000",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    run: Run, arguments: list[object], error: type[Exception], says: str
) -> None:
    run("set", "minutely", "--user", "acme", "--kind", "poll", "--every", 60)
    with pytest.raises(error, match=says):
        run(*arguments)


def test_a_trigger_is_decided_by_the_limits_of_the_servers(database_url: str, run: Run) -> None:
    run("set", "nightly", *NIGHTLY)
    with FairlogServer(database_url, settings={"user_limit": 7}), pytest.raises(SettingsDiffer):
        run("trigger", "nightly")
    assert "not run yet" in run("list")
    assert run("trigger", "nightly").startswith("submitted job ")
