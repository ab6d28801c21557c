"""`fairlog audit head` and `fairlog audit prove`: what can be kept, and shown, outside the log."""

import msgspec
import rich_click as click
from click.exceptions import UsageError

from domain.language import validation
from domain.language.identifiers import POSITION_MAX
from entrypoints.cli.opening import database_url_option, opened_log, settings_from
from entrypoints.cli.output import examples, say
from entrypoints.use_cases.proofs import Evidence

_up_to = click.option(
    "--at",
    "position",
    type=click.IntRange(1, POSITION_MAX),
    metavar="POSITION",
    help="As of this position, that of a head that you kept. Default: the end of the log.",
)


@click.command(epilog=examples("fairlog audit head > head.json"))
@database_url_option
@_up_to
def head(database_url: str | None, *, position: int | None) -> None:
    """Print the head of the log, to be kept elsewhere: position, hash and Merkle root.

    Who keeps one can check the log against it (`fairlog verify --chain-only --from --hash`) and
    proofs too (docs/examples/verify_proof.py).
    """
    with opened_log(settings_from({"database_url": database_url})) as fairlog:
        evidence = Evidence(fairlog)
        evidence.catch_up()
        found = fairlog.read_now(lambda connection: evidence.head(connection, position))
        say(msgspec.json.encode(found).decode())


@click.command(
    epilog=examples(
        "fairlog audit prove --job 17 > proof.json",
        "fairlog audit prove --position 1042 --at 5000 > proof.json",
        "fairlog audit prove --consistency 5000 > growth.json",
    )
)
@database_url_option
@click.option("--job", "job_id", type=int, metavar="ID", help="That all events of this job are in.")
@click.option(
    "--position",
    "event",
    type=click.IntRange(1, POSITION_MAX),
    metavar="POSITION",
    help="That the event at this position is in.",
)
@click.option(
    "--consistency",
    "first",
    type=click.IntRange(1, POSITION_MAX),
    metavar="POSITION",
    help="That the log begins with what it was at this position.",
)
@_up_to
def prove(
    database_url: str | None,
    *,
    job_id: int | None,
    event: int | None,
    first: int | None,
    position: int | None,
) -> None:
    """Print a proof that needs no log to be checked (docs/examples/verify_proof.py does it)."""
    if sum(one is not None for one in (job_id, event, first)) != 1:
        raise UsageError("One of --job, --position and --consistency.")
    with opened_log(settings_from({"database_url": database_url})) as fairlog:
        evidence = Evidence(fairlog)
        evidence.catch_up()
        with fairlog.database.read() as connection:
            if job_id is not None:
                job = validation.job_id(job_id)
                say(_as_json(evidence.prove_job(connection, job, position)))
            elif event is not None:
                say(_as_json(evidence.prove_event(connection, event, position)))
            elif first is not None:
                say(_as_json(evidence.prove_growth(connection, first, position)))


def _as_json(proof: msgspec.Struct) -> str:
    return msgspec.json.encode(proof).decode()
