"""`fairlog callbacks`: list, set and delete the endpoints that are told the ends of jobs, and show
and rotate the secrets that sign for them.

They work on the database itself, as `fairlog plans` does, and so need no key.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import rich_click as click
from click.exceptions import UsageError

from adapters.outgoing.signatures import OPTION, read_secret_key
from domain.decisions.answers import CallbackDecided
from domain.language import validation
from domain.language.callbacks import OF_SUBMISSIONS, OVERLAP_SECONDS, OVERLAP_SECONDS_MAX
from domain.language.commands import CallbackCommand, DeleteCallback, RotateCallbackSecret
from domain.language.errors import InvalidInput
from domain.language.identifiers import CallbackName
from entrypoints.cli.options import format_option
from entrypoints.cli.output import echo, examples, note, printable
from entrypoints.cli.session import (
    database_url_option,
    open_writer,
    setting_options,
    settings_from,
)
from entrypoints.http.callback_requests import CallbackChange
from entrypoints.service.callbacks import (
    CallbackView,
    all_callbacks,
    callbacks_now,
    secret_versions,
    views_of,
)
from entrypoints.service.fairlog import Fairlog
from entrypoints.worker.deliveries import callback_secret

_form: Final = format_option("text", "json", text="Text for people, or JSON.")
_key_file_option = setting_options("callback_key_file")


@click.group()
def callbacks() -> None:
    """List, set and delete the endpoints that are told the ends of jobs; show their secrets."""


@callbacks.command("list", epilog=examples("fairlog callbacks list --format json"))
@database_url_option
@_form
def list_callbacks(database_url: str | None, *, form: str) -> None:
    """List all endpoints by name."""
    with open_writer(database_url, submits=False) as fairlog:
        found = views_of(asyncio.run(all_callbacks(fairlog)))
    for one in found:
        echo(msgspec.json.encode(one).decode() if form == "json" else callback_line(one))


@callbacks.command(
    "set",
    epilog=examples(
        "fairlog callbacks set orders https://example.org/hooks --kind charge --kind refund"
    ),
)
@database_url_option
@click.argument("name")
@click.argument("url")
@click.option("--kind", "kinds", multiple=True, help="Only ends of jobs of this kind; repeatable.")
@click.option("--user", "users", multiple=True, help="Only ends of this user's jobs; repeatable.")
def set_callback(
    database_url: str | None, *, name: str, url: str, kinds: Sequence[str], users: Sequence[str]
) -> None:
    """Make an endpoint, or replace it: what is not given has its default."""
    change = CallbackChange(url=url, kinds=list(kinds), users=list(users))
    command = change.to_command(validation.endpoint_name(name))
    with open_writer(database_url, submits=False) as fairlog:
        _decide(fairlog, command)
    note(f"Set. `fairlog callbacks secret {name}` shows the secret that signs for it.")


@callbacks.command("delete", epilog=examples("fairlog callbacks delete orders"))
@database_url_option
@click.argument("name")
def delete_callback(database_url: str | None, *, name: str) -> None:
    """Delete an endpoint. Deliveries to it that wait fail."""
    with open_writer(database_url, submits=False) as fairlog:
        _decide(fairlog, DeleteCallback(name=validation.endpoint_name(name)))
    note("Deleted.")


@callbacks.command(
    "secret",
    epilog=examples(
        "fairlog callbacks secret default",
        "fairlog callbacks secret orders --rotate --overlap 3600",
    ),
)
@database_url_option
@_key_file_option
@click.argument("name")
@click.option("--rotate", is_flag=True, help="Make a new secret first.")
@click.option(
    "--overlap",
    "overlap_seconds",
    type=float,
    default=OVERLAP_SECONDS,
    metavar="SECONDS",
    help=f"With --rotate: how long the secret before it signs, too. Default: {OVERLAP_SECONDS:.0f}",
)
def secret(
    database_url: str | None,
    *,
    callback_key_file: str | None,
    name: str,
    rotate: bool,
    overlap_seconds: float,
) -> None:
    """Print the secret that a receiver verifies callbacks with; of NAME default, for the URLs that
    come with jobs.

    It is derived from the key in --callback-key-file, which has to be that of the servers.
    """
    file = settings_from({"callback_key_file": callback_key_file}).callback_key_file
    if file is None:
        raise UsageError(
            f"Say where the key is kept: {OPTION} FILE, FAIRLOG_CALLBACK_KEY_FILE or "
            "callback_key_file in fairlog.toml."
        )
    key, wanted = read_secret_key(file), validation.callback_name(name)
    if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
        raise InvalidInput(f"--overlap is a number from 0 to {OVERLAP_SECONDS_MAX} (366 days).")
    with open_writer(database_url, submits=False) as fairlog:
        if rotate:
            _decide(fairlog, RotateCallbackSecret(name=wanted, overlap_seconds=overlap_seconds))
        found, now = asyncio.run(callbacks_now(fairlog))
    _, versions = secret_versions(found, _of_endpoint(wanted), now)
    echo(callback_secret(key, wanted, versions[0]))
    if len(versions) > 1:
        note("The secret before it signs, too, until its overlap is over.")


def _of_endpoint(name: CallbackName) -> CallbackName | None:
    """Return the endpoint of this name; None: it stands for the URLs of submissions."""
    return None if name == OF_SUBMISSIONS else name


def _decide(fairlog: Fairlog, command: CallbackCommand) -> CallbackDecided:
    decided = fairlog.execute_now(command)
    assert isinstance(decided, CallbackDecided), decided
    return decided


def callback_line(view: CallbackView) -> str:
    """Return an endpoint as one line of text."""
    kinds = f"kinds {', '.join(view.kinds)}" if view.kinds else "all kinds"
    users = f"users {', '.join(view.users)}" if view.users else "all users"
    secret_version = f"secret {view.secret_version}"
    return "; ".join(map(printable, (view.name, view.url, kinds, users, secret_version)))
