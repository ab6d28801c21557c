"""`fairlog limits`, `users`, `plans`, `kinds`, `resources`, `pause` and `resume`."""

import json
from pathlib import Path
from typing import Any

import pytest
import rich_click as click

from adapters.outgoing.signatures import SecretKey
from domain.language.errors import InvalidInput, PlanInUse, UnknownPlan
from tests.support.command_line import Run, commands_on
from tests.support.endpoint import secret_key_file

pytestmark = pytest.mark.one_database  # what a command says is the same on each


@pytest.fixture
def run(database_url: str) -> Run:
    return commands_on(database_url)


def shown(run: Run, *arguments: object) -> Any:
    return json.loads(run(*arguments, "--format", "json"))


def test_plans_and_users_are_set_and_shown(run: Run) -> None:
    given = ["--limit", 100, "--window", "10/1s", "--window", "500/1h", "--weight", 2.5]
    run("plans", "set", "gold", *given, "--max-attempts", 5, "--max-priority", 3)
    run("users", "set", "alice", "--plan", "gold", "--throttle", "5/1s", "--running", 2)
    alice = shown(run, "users", "show", "alice")
    assert (alice["limit"], alice["plan"], alice["weight"]) == (100, "gold", 2.5)
    assert alice["set"] == {"plan": "gold", "running": 2, "throttle": {"limit": 5, "seconds": 1}}
    assert [one["name"] for one in alice["windows"]] == ["user-1s", "user-3600s"]
    assert "throttle: 0 of 5 started in 1 s" in run("limits", "show", "alice")
    assert run("plans", "list").startswith("gold; limit 100; windows 10 in 1 s, 500 in 3,600 s")
    assert shown(run, "plans", "show", "gold")["users"] == 1
    with pytest.raises(PlanInUse):
        run("plans", "delete", "gold")
    run("limits", "set", "alice", "--plan", "default", "--throttle", "default")
    assert shown(run, "users", "show", "alice")["set"] == {"running": 2}
    then = run("audit", "state", "--as-of", "2")
    assert "limit of user alice: the default submissions a window, 2 running at once" in then
    assert "throttle 5 in 1 s, plan gold" in then
    assert "limit of plan gold: 100 submissions a window, no cap running at once" in then
    run("plans", "delete", "gold")
    with pytest.raises(UnknownPlan):
        run("plans", "show", "gold")


def test_kinds_resources_and_pauses(run: Run) -> None:
    retry = '{"attempts": 9, "never": ["Rejected"]}'
    run("kinds", "set", "thumb", "--running", 8, "--retry", retry, "--timeout-seconds", 60)
    assert shown(run, "kinds", "show", "thumb")["retry"] == json.loads(retry)
    assert shown(run, "kinds", "show", "thumb")["timeout_seconds"] == 60
    run("resources", "set", "shop:*", "--running", 1, "--throttle", "2/30")
    assert shown(run, "resources", "show", "shop:a")["set_by"] == "shop:*"
    run("pause", "--kind", "thumb")
    run("pause", "--user", "alice", "--kind", "thumb")
    run("pause", "--all")
    assert shown(run, "kinds", "show", "thumb")["paused"] is True
    assert shown(run, "limits", "show")["paused"] is True
    assert "paused yes" in run("kinds", "list")
    run("resume", "--all")
    run("resume", "--kind", "thumb")
    assert shown(run, "kinds", "show", "thumb")["running_limit"] == 8
    assert shown(run, "limits", "show")["paused"] is False


def test_the_endpoint_of_a_kind_and_its_secret(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(click.UsageError, match="FAIRLOG_CALLBACK_KEY_FILE"):
        run("kinds", "secret", "thumb")
    file = secret_key_file(tmp_path)
    monkeypatch.setenv("FAIRLOG_CALLBACK_KEY_FILE", str(file))
    with pytest.raises(click.UsageError, match="--push URL"):
        run("kinds", "secret", "thumb")
    run("kinds", "set", "thumb", "--push", "https://images.example/jobs")
    assert "url https://images.example/jobs" in run("kinds", "show", "thumb")
    first = run("kinds", "secret", "thumb")
    assert first == SecretKey(b"k" * 44).secret("push/thumb", 1) + "\n"
    target = '{"url": "https://images.example/jobs", "secret_version": 2}'
    run("kinds", "set", "thumb", "--push", target)
    assert run("kinds", "secret", "thumb") != first
    run("kinds", "set", "thumb", "--push", "default")
    assert shown(run, "kinds", "show", "thumb")["push"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["users", "set", "alice", "--weight", "0"], InvalidInput, "0.01 to 1,000"),
        (["users", "set", "alice", "--weight", "nan"], InvalidInput, "0.01 to 1,000"),
        (["users", "set", "alice", "--throttle", "5"], click.BadParameter, "like 10/1s"),
        (["users", "set", "alice", "--window", "1/366d"], InvalidInput, "from 1 to 2678400"),
        (["users", "set", "alice"], InvalidInput, "Send at least one of"),
        (["users", "set", "a", "--kind", "b", "--weight", "1"], click.UsageError, "not weight"),
        (["users", "set", "alice", "--weight", "1001"], InvalidInput, "0.01 to 1,000"),
        (["users", "set", "alice", "--weight=-1"], InvalidInput, "0.01 to 1,000"),
        (["users", "set", "alice", "--weight", "heavy"], click.BadParameter, "not a number"),
        (["kinds", "set", "thumb", "--throttle", "1/0s"], InvalidInput, "from 1 to 2678400"),
        (
            ["kinds", "set", "thumb", "--push", "images.example"],
            InvalidInput,
            "push.url begins with http",
        ),
        (["kinds", "set", "thumb", "--push", "{}"], click.BadParameter, "an endpoint as JSON"),
        (["resources", "set", "shop", "--throttle", "1/366d"], InvalidInput, "from 1 to 2678400"),
        (["plans", "delete", "none"], UnknownPlan, "There is no plan 'none'"),
        (["users", "set", "alice", "--plan", "none"], UnknownPlan, "fairlog plans set"),
        (["pause"], click.UsageError, "Name one of"),
    ],
)
def test_wrong_use_gets_a_sentence(
    run: Run, arguments: list[str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        run(*arguments)
