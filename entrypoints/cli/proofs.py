"""`fairlog audit head` and `fairlog audit prove`: evidence that can be checked without the log."""

import msgspec
import rich_click as click
from click.exceptions import UsageError

from domain.language import validation
from domain.language.identifiers import POSITION_MAX
from entrypoints.cli.options import at_option
from entrypoints.cli.output import echo, examples
from entrypoints.cli.session import archive_option, database_url_option, open_log
from entrypoints.use_cases.proofs import Prover


@click.command(epilog=examples("fairlog audit head > head.json"))
@database_url_option
@archive_option
@at_option
def head(database_url: str | None, *, archive: str | None, position: int | None) -> None:
    """Print the head of the log: position, hash and Merkle root. Keep it elsewhere.

    With a head you can check the log (`fairlog verify --chain-only --from --hash`), and proofs
    (docs/examples/verify_proof.py).
    """
    with open_log(database_url, archive) as fairlog:
        evidence = Prover(fairlog)
        evidence.catch_up()
        found = fairlog.read_now(lambda connection: evidence.head(connection, position))
        echo(msgspec.json.encode(found).decode())


@click.command(
    epilog=examples(
        "fairlog audit prove --job 17 > proof.json",
        "fairlog audit prove --position 1042 --at 5000 > proof.json",
        "fairlog audit prove --consistency 5000 > growth.json",
    )
)
@database_url_option
@archive_option
@click.option(
    "--job", "job_id", type=int, metavar="ID", help="Prove that the log has this job's events."
)
@click.option(
    "--position",
    "event",
    type=click.IntRange(1, POSITION_MAX),
    metavar="POSITION",
    help="Prove that the log has the event at this position.",
)
@click.option(
    "--consistency",
    "first",
    type=click.IntRange(1, POSITION_MAX),
    metavar="POSITION",
    help="Prove that the log only grew since this position.",
)
@at_option
def prove(
    database_url: str | None,
    *,
    archive: str | None,
    job_id: int | None,
    event: int | None,
    first: int | None,
    position: int | None,
) -> None:
    """Print a proof, which docs/examples/verify_proof.py checks without the log."""
    if sum(one is not None for one in (job_id, event, first)) != 1:
        raise UsageError("Give exactly one of --job, --position and --consistency.")
    with open_log(database_url, archive) as fairlog:
        evidence = Prover(fairlog)
        evidence.catch_up()
        with fairlog.database.read() as connection:
            if job_id is not None:
                job = validation.job_id(job_id)
                echo(_as_json(evidence.prove_job(connection, job, position)))
            elif event is not None:
                echo(_as_json(evidence.prove_event(connection, event, position)))
            elif first is not None:
                echo(_as_json(evidence.prove_growth(connection, first, position)))


def _as_json(proof: msgspec.Struct) -> str:
    return msgspec.json.encode(proof).decode()
