"""The commands on the database: migrate, rebuild, verify, doctor and recover."""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

import rich_click as click
from click.exceptions import Exit

from adapters.doctor import DoctorFinding as Diagnosis
from adapters.doctor import Level, examine
from domain.jobs.job import Job
from domain.language.callbacks import CALLBACK_KIND
from domain.language.errors import LogTooNew
from domain.language.identifiers import POSITION_MAX
from domain.log.chain import GENESIS
from entrypoints.cli.failure import CHECK_FAILED
from entrypoints.cli.output import counted, echo, examples, note, printable, progress
from entrypoints.cli.session import database_url_option, open_database, open_log, settings_from
from entrypoints.composition import (
    mend_bookkeeping,
    prepare,
    projection_tables,
    rebuild_projections,
    restore_indexes,
)
from entrypoints.processes.recovery import recover_now
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_verification import ArchiveVerified, verify_archive
from entrypoints.use_cases.clock import clock_note
from entrypoints.use_cases.diagnosis import diagnose, former_tables
from entrypoints.use_cases.verification import bookkeeping_faults, verify_log, verify_log_chain
from projections.verify.bookkeeping import REGISTRY
from projections.verify.findings import Difference, Finding
from projections.verify.verify import TrustedHead, Verified

USERS_SHOWN_MAX: Final = 100  # with erased bodies
_MARKS: Final = {level: f"{level.value:<7}" for level in Level}


@click.command()
@database_url_option
def migrate(database_url: str | None) -> None:
    """Create or upgrade the database's tables.

    It can be repeated, and run by several servers at once. `fairlog serve` does the same.
    """
    with open_database(database_url) as fairlog:
        with progress("building projections") as report:
            built = prepare(fairlog, report)
        restore_indexes(fairlog)
        echo(f"The database is up to date; rebuilt: {', '.join(built) or 'nothing'}.")


@click.command(
    epilog=examples("fairlog rebuild", "fairlog rebuild --projection jobs --projection line")
)
@database_url_option
@click.option(
    "--projection",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this one, like jobs or line; may be given several times. A wrong name lists all of "
    "them. Default: all.",
)
def rebuild(database_url: str | None, names: tuple[str, ...]) -> None:
    """Rebuild projections from the log, while the service goes on."""
    with open_log(database_url) as fairlog:
        started = time.monotonic()
        with progress("rebuilding") as report:
            events = rebuild_projections(fairlog, names, report)
        seconds = max(time.monotonic() - started, 1e-3)
        echo(
            f"Rebuilt {', '.join(names) or 'all projections'} from {events:,} events in "
            f"{seconds:.1f} s ({events / seconds:,.0f} events/s)."
        )


@click.command(
    epilog=examples(
        "fairlog verify",
        "fairlog verify --repair",
        "fairlog verify --archive /var/backups/fairlog",
        "fairlog verify --chain-only --from 4711 --hash 9f86d081884c7d65…",
    )
)
@database_url_option
@click.option("--repair", is_flag=True, help="Rebuild the projections that differ.")
@click.option(
    "--chain-only",
    is_flag=True,
    help="Check only positions, hashes and times, neither the events' contents nor projections.",
)
@click.option(
    "--from",
    "position",
    type=click.IntRange(0, POSITION_MAX),
    metavar="POSITION",
    help="With --chain-only: check only events after this position; needs --hash.",
)
@click.option(
    "--hash",
    "hash_hex",
    metavar="HASH",
    help="The hash at that position, which you have kept (64 hexadecimal digits).",
)
@click.option(
    "--archive",
    metavar="DIR|URL",
    help="Check the segments in this directory too, or at this URL of an object store: their "
    "hashes, events and bodies, the chain across them, and that the database continues them.",
)
def verify(
    database_url: str | None,
    *,
    archive: str | None,
    repair: bool,
    chain_only: bool,
    position: int | None,
    hash_hex: str | None,
) -> None:
    """Check the log, and every projection against it, while the service goes on.

    Prints what is wrong, and last the position and the hash of the log's head. Keep both outside
    the database: then no earlier event can be changed unnoticed. Exit code 0: clean, 1: not.
    """
    trusted = _trusted_head(position, hash_hex)
    if archive is not None and chain_only:
        raise click.UsageError("--archive cannot be combined with --chain-only.")
    if (trusted is not None and not chain_only) or (chain_only and repair):
        raise click.UsageError(
            "--from and --hash need --chain-only; --repair cannot be combined with it."
        )
    with open_log(database_url) as fairlog:
        if chain_only:
            with progress("verifying") as report:
                verified = verify_log_chain(
                    fairlog, trusted or TrustedHead(0, GENESIS), _print_found, report
                )
        else:
            verified = _verify(fairlog)
            if repair and verified.differing:
                verified = _repaired(fairlog, verified)
        segments = None if archive is None else _verify_archive(fairlog, archive)
        if sentence := clock_note(fairlog.read_now(fairlog.log.reading)):
            note(sentence)
    _print_erased(verified)
    if segments is not None:
        echo(_archive_summary(segments))
    echo(f"{_summary(verified)}\nposition {verified.position}, hash {verified.hash.hex()}")
    if not verified.is_clean or (segments is not None and segments.findings):
        raise Exit(CHECK_FAILED)


def _trusted_head(position: int | None, hash_hex: str | None) -> TrustedHead | None:
    if position is None and hash_hex is None:
        return None
    if position is None or hash_hex is None:
        raise click.UsageError("Give both --from and --hash, or neither.")
    try:
        trusted_hash = bytes.fromhex(hash_hex)
    except ValueError:
        trusted_hash = b""
    if len(trusted_hash) != len(GENESIS):
        raise click.BadParameter("a hash has 64 hexadecimal digits.", param_hint="--hash")
    return TrustedHead(position, trusted_hash)


def _verify(fairlog: Fairlog) -> Verified:
    with progress("verifying") as report:
        return verify_log(fairlog, _print_found, report)


def _verify_archive(fairlog: Fairlog, location: str) -> ArchiveVerified:
    with progress("verifying the archive") as report:
        return verify_archive(fairlog, location, _print_found, report)


def _archive_summary(verified: ArchiveVerified) -> str:
    checked = (
        f"{counted(verified.events, 'event', 'events')} in "
        f"{counted(verified.segments, 'segment', 'segments')}"
    )
    if not verified.findings:
        return f"The archive is clean: {checked}."
    return (
        f"The archive is NOT clean: {checked}; {counted(verified.findings, 'finding', 'findings')}."
    )


def _repaired(fairlog: Fairlog, verified: Verified) -> Verified:
    """Rebuild the projections that differ, and verify once more."""
    if verified.findings:
        note("Nothing is repaired: the log itself has been changed.")
        return verified
    differing = [name for name in verified.differing if name != REGISTRY]
    restore_indexes(fairlog)
    if differing:
        with progress("rebuilding") as report:
            rebuild_projections(fairlog, differing, report)
    mend_bookkeeping(fairlog)
    echo(f"Rebuilt: {', '.join(verified.differing)}.")
    return _verify(fairlog)


def _print_found(found: Finding | Difference) -> None:
    echo(printable(str(found)))


def _print_erased(verified: Verified) -> None:
    """Print how many bodies `BodiesErased` events account for, by user."""
    users = sorted(verified.erased.items())
    for user_id, bodies in users[:USERS_SHOWN_MAX]:
        echo(f"erased, as the log says: {bodies:,} bodies of {printable(user_id)}")
    if len(users) > USERS_SHOWN_MAX:
        echo(f"erased, as the log says: bodies of {len(users) - USERS_SHOWN_MAX:,} more users")


def _summary(verified: Verified) -> str:
    checked = counted(verified.events, "event", "events")
    if verified.is_clean:
        return f"Clean: {checked}."
    log = f"{counted(verified.findings, 'finding', 'findings')} in the log"
    projections = f"projections that differ: {', '.join(verified.differing) or 'none'}"
    return f"NOT clean: {checked}; {log}; {projections}."


@click.command()
@database_url_option
def doctor(database_url: str | None) -> None:
    """Check the settings of the database, and whether the service keeps up.

    Shows the result of each check, and how to correct what is wrong. Exit code 1 if there is an
    error; warnings alone give 0.
    """
    worst = Level.OK
    with open_database(database_url) as fairlog:
        for diagnosis in _diagnoses(fairlog):
            _print_diagnosis(diagnosis)
            if diagnosis.level is Level.ERROR:
                worst = Level.ERROR
    if worst is Level.ERROR:
        raise Exit(CHECK_FAILED)


def _log_time(fairlog: Fairlog) -> Diagnosis:
    sentence = clock_note(fairlog.read_now(fairlog.log.reading))
    if sentence is None:
        return Diagnosis("log's time", Level.OK, "it follows the database's clock")
    found, _, mend = sentence.rstrip(".").partition("; ")
    return Diagnosis("log's time", Level.WARNING, found, mend or None)


def _diagnoses(fairlog: Fairlog) -> Iterator[Diagnosis]:
    is_sound = True
    for diagnosis in examine(fairlog.database, list(chain(*projection_tables(fairlog).values()))):
        yield diagnosis
        if diagnosis.check in {"file", "tables", "projections"}:
            is_sound = is_sound and diagnosis.level is Level.OK
    if is_sound:
        yield _bookkeeping(fairlog)
        yield _log_time(fairlog)
        yield from diagnose(fairlog)
        yield _callbacks(fairlog)
        yield former_tables(fairlog, list(chain(*projection_tables(fairlog).values())))


def _callbacks(fairlog: Fairlog) -> Diagnosis:
    load = fairlog.read_now(
        fairlog.with_saved_rows(lambda connection: fairlog.line.kind(connection, CALLBACK_KIND))
    )
    settings = settings_from({})
    sends = settings.callback_slots > 0 and settings.callback_key_file is not None
    found = f"{load.waiting:,} wait to be sent"
    if sends or not load.waiting:
        return Diagnosis("callbacks", Level.OK, found)
    return Diagnosis(
        "callbacks",
        Level.WARNING,
        f"{found}, and a server with the settings found here sends none",
        "make a key with `head -c 32 /dev/urandom | base64`, and name its file by "
        "FAIRLOG_CALLBACK_KEY_FILE on each server; FAIRLOG_CALLBACK_SLOTS must not be 0",
    )


def _bookkeeping(fairlog: Fairlog) -> Diagnosis:
    try:
        faults = bookkeeping_faults(fairlog)
    except LogTooNew as error:
        faults = [str(error)]
    if not faults:
        found = "the head, the registry and the checkpoints agree with each other"
        return Diagnosis("bookkeeping", Level.OK, found)
    mend = "run `fairlog verify --repair`; correct log_head by hand if it is wrong"
    return Diagnosis("bookkeeping", Level.ERROR, "; ".join(faults), mend)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    echo(f"{_MARKS[diagnosis.level]}  {diagnosis.check}: {printable(diagnosis.found)}")
    if diagnosis.mend:
        echo(f"         → {printable(diagnosis.mend)}")


@click.command()
@database_url_option
@click.option(
    "--server-id",
    metavar="NAME",
    help="MySQL, MariaDB: the --server-id of a server that is certainly dead, whose jobs are "
    "queued again at once. Without it, only overdue jobs change, such as by an expired lease.",
)
def recover(database_url: str | None, server_id: str | None) -> None:
    """Queue again the jobs that a dead server left running.

    `fairlog serve` does the same at every start. It refuses to run while a server uses the same
    SQLite file.
    """
    with open_database(database_url) as fairlog:
        jobs = recover_now(fairlog, server_id)
        for job in jobs:
            echo(_recovered(job))
        echo(f"{len(jobs):,} jobs recovered.")


def _recovered(job: Job) -> str:
    return f"job {job.id} of {printable(job.user_id)} ({printable(job.kind)}): {job.state.value}"
