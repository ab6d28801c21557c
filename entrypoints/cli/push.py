"""The endpoint of a kind on the command line, and its secret."""

import asyncio

import msgspec
import rich_click as click

from adapters.outgoing.signatures import secret_key_of
from domain.language import validation
from domain.language.push_fields import PushFields
from entrypoints.cli.output import echo, examples, printable
from entrypoints.cli.session import database_url_option, open_writer, settings_from
from entrypoints.service import limit_reads
from entrypoints.worker.push_executor import push_secret_name


def parse_endpoint(text: str) -> PushFields:
    """Parse a URL, or an endpoint as JSON. Raises `ValueError`."""
    if not text.startswith("{"):
        return PushFields(text)
    try:
        return msgspec.json.decode(text, type=PushFields)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError from error


@click.command("secret", epilog=examples("fairlog kinds secret thumbnail > push.secret"))
@database_url_option
@click.argument("kind")
def show_push_secret(database_url: str | None, *, kind: str) -> None:
    """Print the secret that requests with jobs of KIND are signed with.

    It follows from the key in FAIRLOG_CALLBACK_KEY_FILE, and is not in the database.
    """
    name = validation.kind(kind)
    key = secret_key_of(settings_from({}))
    if key is None:
        raise click.UsageError(
            "Say where the key is kept: FAIRLOG_CALLBACK_KEY_FILE, or callback_key_file in "
            "fairlog.toml."
        )
    with open_writer(database_url, submits=False) as fairlog:
        endpoint = asyncio.run(limit_reads.kind(fairlog, name)).push
    if endpoint is None:
        raise click.UsageError(
            f"Jobs of {printable(name)} are posted nowhere; set an endpoint first: `fairlog kinds "
            f"set {printable(name)} --push URL`."
        )
    echo(key.secret(push_secret_name(name), endpoint.secret_version))
