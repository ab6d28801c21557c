"""`fairlog audit key` and `fairlog audit checkpoint`: what others check the log with."""

import rich_click as click
from click.exceptions import UsageError

from adapters.settings import Settings
from adapters.signing_key import OPTION, create_signing_key, read_signing_key
from entrypoints.cli.options import at_option
from entrypoints.cli.output import echo, examples, note
from entrypoints.cli.session import (
    database_url_option,
    open_log,
    setting_options,
    settings_from,
)
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.signed_checkpoints import SignedCheckpoints

_key_file_option = setting_options("checkpoint_key_file")


@click.command(
    epilog=examples(
        "fairlog audit key jobs.example.com --checkpoint-key-file checkpoint.key",
        "fairlog audit key --checkpoint-key-file checkpoint.key",
    )
)
@_key_file_option
@click.argument("name", required=False)
def key(*, name: str | None, checkpoint_key_file: str | None) -> None:
    """Make the key pair that signs checkpoints, and print its verifier key.

    NAME is the log's name, best the server's address without https://. The private key goes into
    the file; keep a copy elsewhere. Without NAME, print the verifier key of the file again.
    """
    file = _file_of(settings_from({"checkpoint_key_file": checkpoint_key_file}))
    if name is None:
        echo(str(read_signing_key(file).verifier))
        return
    made = create_signing_key(file, name)
    note(f"The private key is in {file}: a secret, to be kept outside the database.")
    echo(str(made.verifier))


@click.command(epilog=examples("fairlog audit checkpoint > checkpoint.txt"))
@database_url_option
@_key_file_option
@at_option
def checkpoint(
    *, database_url: str | None, checkpoint_key_file: str | None, position: int | None
) -> None:
    """Print a signed checkpoint of the log, as /checkpoint of a server does.

    Any verifier of transparency logs reads it (https://c2sp.org/tlog-checkpoint).
    """
    settings = settings_from({"checkpoint_key_file": checkpoint_key_file})
    signed = SignedCheckpoints(read_signing_key(_file_of(settings)))
    with open_log(database_url) as fairlog:
        Prover(fairlog).catch_up()
        found = fairlog.read_now(
            signed.latest
            if position is None
            else lambda connection: signed.at(connection, position)
        )
    echo(found.removesuffix("\n"))


def _file_of(settings: Settings) -> str:
    if settings.checkpoint_key_file is None:
        raise UsageError(
            f"Say where the key is kept: {OPTION} FILE, FAIRLOG_CHECKPOINT_KEY_FILE or "
            "checkpoint_key_file in fairlog.toml."
        )
    return settings.checkpoint_key_file
