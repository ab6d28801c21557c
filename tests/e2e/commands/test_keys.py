"""`fairlog keys` as its users run it."""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from domain.access.secrets import id_of
from domain.language.errors import FairlogError
from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from tests.support.core import service

pytestmark = pytest.mark.one_database  # what a command says is the same on each

Asked = Callable[..., Result]


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service(database_url) as one:
        yield one


@pytest.fixture
def keys(fairlog: Fairlog, database_url: str) -> Asked:
    assert fairlog

    def run(*arguments: object) -> Result:
        return CliRunner(env={"FAIRLOG_DATABASE_URL": database_url}).invoke(
            cli.commands["keys"],
            list(map(str, arguments)),
            prog_name="fairlog keys",
            standalone_mode=False,
        )

    return run


def said(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.stdout


def listed(keys: Asked) -> list[dict[str, object]]:
    return [json.loads(line) for line in said(keys("list", "--format", "json")).splitlines()]


def test_creating_a_key_prints_the_secret_alone(keys: Asked) -> None:
    secret = said(keys("create", "--name", "ci", "--role", "submitter", "--user", "alice"))
    assert secret.count("\n") == 1
    assert id_of(secret.strip()) is not None
    [key] = listed(keys)
    assert (key["name"], key["role"], key["users"], key["valid"]) == (
        "ci",
        "submitter",
        ["alice"],
        True,
    )
    assert secret.split("_")[2].strip() not in json.dumps(key)


def test_a_key_has_what_its_options_say(keys: Asked) -> None:
    options = ["--user-prefix", "acme/", "--kind", "echo", "--kind", "thumb", "--expires", "90d"]
    options += ["--max-priority", "5", "--max-attempts", "2", "--max-timeout", "30s"]
    said(keys("create", "--name", "acme", "--role", "submitter", *options, "--max-changes", "9"))
    [key] = listed(keys)
    expected = {
        "user_prefix": "acme/",
        "kinds": ["echo", "thumb"],
        "priority_max": 5,
        "attempts_max": 2,
        "timeout_seconds_max": 30,
        "changes_max": 9,
        "any_user": False,
    }
    assert {name: key[name] for name in expected} == expected
    assert key["expires_at"] is not None
    line = said(keys("list"))
    assert line.startswith("acme; submitter; users acme/*; kind echo; kind thumb; expires ")


def test_rotating_prints_another_secret_and_revoking_ends_all(keys: Asked) -> None:
    first = said(keys("create", "--name", "ci", "--role", "reader"))
    second = said(keys("rotate", "ci", "--overlap", "1h"))
    assert id_of(second.strip()) not in {None, id_of(first.strip())}
    [key] = listed(keys)
    assert [one["until"] is None for one in key["secrets"]] == [False, True]  # type: ignore[attr-defined]  # a list
    assert keys("revoke", "ci").exception is None
    [key] = listed(keys)
    assert (key["valid"], key["secrets"]) == (False, [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["create", "--name", "ci", "--role", "submitter"], "Say whose jobs"),
        (["create", "--name", "a b", "--role", "reader"], "The name of a key has 1 to 64"),
        (["create", "--name", "w", "--role", "worker", "--user", "alice"], "is for all users"),
        (["create", "--name", "o", "--role", "operator", "--kind", "echo"], "for all kinds"),
        (["create", "--name", "r", "--role", "reader", "--max-attempts", "2"], "Only a submitter"),
        (["create", "--name", "r", "--role", "reader", "--any-user", "--user", "a"], "not both"),
        (["revoke", "nobody"], "There is no key 'nobody'"),
        (["rotate", "no such"], "There is no key 'no such'"),
    ],
)
def test_what_does_not_fit_is_said(keys: Asked, arguments: list[str], sentence: str) -> None:
    error = keys(*arguments).exception
    assert isinstance(error, FairlogError)
    assert sentence in str(error)
    assert listed(keys) == []


def test_a_length_of_time_needs_a_unit(keys: Asked) -> None:
    error = keys("create", "--name", "ci", "--role", "reader", "--expires", "90").exception
    assert "90d, 12h, 30m or 45s" in str(error)


def test_the_state_at_a_position_names_the_keys_that_were_valid(
    keys: Asked, database_url: str
) -> None:
    said(keys("create", "--name", "ci", "--role", "reader"))
    said(keys("create", "--name", "root", "--role", "admin"))
    assert keys("revoke", "ci").exception is None
    runner = CliRunner(env={"FAIRLOG_DATABASE_URL": database_url})

    def state(position: int) -> str:
        return said(
            runner.invoke(
                cli.commands["audit"], ["state", "--as-of", str(position)], standalone_mode=False
            )
        )

    assert "key ci; reader; any user" in state(2)
    assert "key root; admin; any user" in state(2)
    assert "key ci" not in state(3)
