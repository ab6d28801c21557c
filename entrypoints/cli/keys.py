"""`fairlog keys`: creates, lists, rotates and revokes API keys on the database itself.

Whoever holds the database is the operator, so these commands need no key.
"""

import msgspec
import rich_click as click

from adapters.log.key_events import keys_after
from domain.access.keys import ApiKeys
from domain.language import validation
from domain.language.commands import RevokeKey
from domain.language.errors import InvalidInput, UnknownKey
from domain.language.events import KeyCreated, Role
from domain.language.identifiers import KeyName, Kind, UserId
from domain.language.moments import later
from entrypoints.cli.options import DURATION, format_option
from entrypoints.cli.output import echo, examples, note, printable
from entrypoints.cli.session import database_url_option, open_log, open_writer
from entrypoints.service.key_views import KeyView, key_views
from entrypoints.use_cases.keys import NO_SECRET, creation, rotation


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys.

    With the first key, servers require one of every request.
    """


@keys.command(
    epilog=examples(
        "fairlog keys create --name root --role admin",
        "fairlog keys create --name acme --role submitter --user-prefix acme/ --expires 90d",
        "fairlog keys create --name thumbs --role worker --kind thumbnail",
    )
)
@database_url_option
@click.option("--name", required=True, metavar="NAME", help="A name that no key has had.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="What the key may do.",
)
@click.option(
    "--user", "users", multiple=True, metavar="ID", help="Only jobs of this user (repeatable)."
)
@click.option("--user-prefix", metavar="PREFIX", help="Only jobs of users whose ids start with it.")
@click.option("--any-user", is_flag=True, help="Jobs of all users.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only jobs of this kind (repeatable)."
)
@click.option("--expires", type=DURATION, metavar="90d", help="When the key ends. Default: never")
@click.option(
    "--max-priority", type=int, metavar="N", help="The highest priority that it may ask for."
)
@click.option("--max-attempts", type=int, metavar="N", help="The most attempts of a job.")
@click.option(
    "--max-timeout",
    type=DURATION,
    metavar="1h",
    help="The longest time-out of an attempt; a job without one gets it.",
)
@click.option("--max-changes", type=int, metavar="N", help="Cancellations and retries in a window.")
def create(  # noqa: PLR0913 (an option each)
    database_url: str | None,
    *,
    name: str,
    role: str,
    users: tuple[str, ...],
    user_prefix: str | None,
    any_user: bool,
    kinds: tuple[str, ...],
    expires: float | None,
    max_priority: int | None,
    max_attempts: int | None,
    max_timeout: float | None,
    max_changes: int | None,
) -> None:
    """Create a key, and print its secret: it is shown only now."""
    with open_writer(database_url, submits=False) as fairlog:
        now = fairlog.read_now(fairlog.log.now)
        secret, command = creation(
            KeyCreated(
                name=validation.key_name(name),
                role=Role(role),
                secret_id=NO_SECRET,
                secret_sha256="",
                users=tuple(map(UserId, users)),
                user_prefix=user_prefix,
                any_user=any_user,
                kinds=tuple(map(Kind, kinds)),
                expires_at=None if expires is None else later(now, expires),
                priority_max=max_priority,
                attempts_max=max_attempts,
                timeout_seconds_max=max_timeout,
                changes_max=max_changes,
            )
        )
        fairlog.execute_now(command)
    echo(secret)


@keys.command("list", epilog=examples("fairlog keys list", "fairlog keys list --format json"))
@database_url_option
@format_option("text", "json", text="Text for people, or JSON (one object per line).")
def list_keys(database_url: str | None, *, form: str) -> None:
    """List all keys, also those that are revoked or expired."""
    with open_log(database_url) as fairlog:
        found = fairlog.read_now(
            lambda connection: key_views(
                keys_after(connection, ApiKeys()), fairlog.log.now(connection)
            )
        )
    for key in found:
        echo(msgspec.json.encode(key).decode() if form == "json" else key_line(key))
    if not found:
        note("There are no keys.")


@keys.command(epilog=examples("fairlog keys revoke acme"))
@database_url_option
@click.argument("name")
def revoke(database_url: str | None, *, name: str) -> None:
    """Revoke a key for ever.

    All servers refuse it at once for writes, and within a second for reads.
    """
    with open_writer(database_url, submits=False) as fairlog:
        fairlog.execute_now(RevokeKey(name=_known(name)))
    note(f"The key {name!r} is revoked.")


@keys.command(epilog=examples("fairlog keys rotate acme", "fairlog keys rotate acme --overlap 0s"))
@database_url_option
@click.argument("name")
@click.option(
    "--overlap",
    type=DURATION,
    default=3600.0,
    metavar="1h",
    help="How long the earlier secrets still hold. Default: 1h",
)
def rotate(database_url: str | None, *, name: str, overlap: float) -> None:
    """Give a key a new secret, and print it: it is shown only now."""
    with open_writer(database_url, submits=False) as fairlog:
        secret, command = rotation(_known(name), overlap)
        fairlog.execute_now(command)
    echo(secret)


def key_line(key: KeyView) -> str:
    """Return a key as one line of text."""
    users = "any user" if key.any_user else ", ".join(f"user {one}" for one in key.users)
    if key.user_prefix is not None:
        users = ", ".join(filter(None, [users, f"users {key.user_prefix}*"]))
    parts = [key.name, key.role.value, users, *(f"kind {kind}" for kind in key.kinds)]
    if key.revoked_at is not None:
        parts.append(f"revoked {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}")
    elif key.expires_at is not None:
        word = "expires" if key.valid else "expired"
        parts.append(f"{word} {key.expires_at:%Y-%m-%dT%H:%M:%SZ}")
    return printable("; ".join(parts))


def _known(name: str) -> KeyName:
    """Return the name of a key. No key has a malformed one."""
    try:
        return validation.key_name(name)
    except InvalidInput:
        raise UnknownKey(KeyName(name)) from None
