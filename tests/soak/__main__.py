"""Run a soak, and say what the log and the answers do not agree on. Exit code 1 if anything."""

import argparse
import contextlib
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from tests.benchmarks.machine import machine, today, versions
from tests.soak import report, tenants
from tests.soak.answers import Answers
from tests.soak.application import TABLE
from tests.soak.faults import Faults, LogPipe
from tests.soak.load import Load
from tests.soak.memory import Memory
from tests.soak.process_faults import ProcessFaults
from tests.soak.programs import Archiver, Programs, fairlog_environment, scratch_folder
from tests.soak.referee.judge import Facts, judge_database, orders_of
from tests.soak.referee.sql import connect, rows
from tests.support.fault_proxy import FaultProxy
from tests.support.mariadb import MariaDB
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, ServerFailed
from tests.support.waiting import wait_until

MEMORY_GROWTH_MAX: Final = 1.25
MEMORY_SECONDS_MIN: Final = 600  # of a soak whose memory is judged
_DRAIN_SECONDS_MAX: Final = 240.0
_FAIRLOG: Final = Path(sys.executable).with_name("fairlog")


class Place(Struct):
    """The database of a soak, and the folder for all files."""

    folder: Path
    direct: str  # URL of the database
    url: str  # that servers and applications have: by way of the proxy, if there is one
    proxy: FaultProxy | None = None
    mariadb: MariaDB | None = None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="draws the faults and the load")
    parser.add_argument("--database", choices=["mariadb", "sqlite"], default="mariadb")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for logs and segments")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "soak.md", help="the page to write"
    )
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}, {given.minutes} minutes, {given.database}", flush=True)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_place(given.database, seed))
        if given.keep is not None:
            stack.callback(_keep, place.folder, given.keep)
        outcome = _soak(place, seed, given.minutes)
    report.write(given.page, outcome)
    print("faults:", dict(outcome.faults), "kills:", outcome.kills)
    print("answers:", dict(sorted(outcome.answers.items())))
    print("events:", dict(outcome.events), "archived:", outcome.archived)
    print("checked:", {str(rule): count for rule, count in outcome.findings.checked.items()})
    print(f"longest pauses: {sorted(outcome.pauses)[-5:]} s, memory: {outcome.memory_growth}")
    for sentence in outcome.wrong:
        print("WRONG:", sentence)
    print("all agree" if not outcome.wrong else f"{len(outcome.wrong)} kinds of disagreement")
    return 1 if outcome.wrong else 0


@contextlib.contextmanager
def _place(database: str, seed: int) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(scratch_folder()))
        if database == "sqlite":
            url = f"sqlite:///{folder / 'soak.db'}"
            yield Place(folder, url, url)
            return
        mariadb = stack.enter_context(MariaDB())
        direct = mariadb.create_database()
        proxy = stack.enter_context(FaultProxy(direct, random.Random(seed + 1)))
        yield Place(folder, direct, proxy.url, proxy, mariadb)


def _soak(place: Place, seed: int, minutes: float) -> report.Outcome:
    with contextlib.ExitStack() as stack:
        root = _prepare(place.direct)
        servers, logs = _start_servers(stack, place)
        for server in servers:
            server.client.headers.update(tenants.header(root))
        keys = tenants.set_up(servers[0].url, root)
        memory = Memory(servers[-1])
        urls = [server.url for server in servers]
        archive_chance = random.Random(f"{seed}-archive")
        # Not by way of the proxy: an archive ends at the first statement that fails, so that one of
        # a long part of the log would hardly ever be completed.
        archiver = Archiver(place.folder, place.direct, lambda: archive_chance.uniform(2, 8))
        faults = Faults(
            servers,
            logs,
            place.proxy,
            place.mariadb,
            random.Random(seed),
            lambda seconds: _lock(place.direct, seconds),
        )
        programs = Programs(place.folder, seed, urls, place.url, keys)
        process_faults = ProcessFaults(programs, archiver, random.Random(f"{seed}-processes"))
        stack.callback(process_faults.stop)
        with Load(urls, seed, keys) as load:
            faults.break_for(minutes * 60)
            process_faults.mend()
            archiver.stop()
            load.is_submitting = False
            wrong = _drain(place, servers, programs)
        process_faults.stop()
        memory.stop()
        programs.collect(load.answers)
        _write_timeline(place.folder, [*faults.timeline, *process_faults.timeline], load.answers)
        if not archiver.run_once():
            wrong.append("the archive failed, although nothing was broken")
        wrong += faults.bad_ends
        wrong += process_faults.bad_ends
        wrong += [f"an answer was not foreseen: {one}" for one in load.answers.unforeseen[:5]]
        for server in servers:
            try:
                server.terminate()
            except ServerFailed as error:
                wrong.append(str(error)[-2000:])
        orders = orders_of(place.direct)
        facts = Facts(
            settings=tenants.SETTINGS,
            kinds_of=tenants.kinds_of,
            answers=load.answers,
            disturbances=[(begin, end) for begin, end, _ in faults.timeline],
            orders=orders,
        )
        print("the referee reads", flush=True)
        referee = judge_database(place.direct, archiver.place, facts)
        wrong += referee.findings.sentences()
        growth = memory.growth() if minutes * 60 >= MEMORY_SECONDS_MIN else None
        if growth is not None and growth > MEMORY_GROWTH_MAX:
            wrong.append(f"the memory of a server has grown to {growth:.2f} times")
        wrong += _verify(place, archiver.place)
        return report.Outcome(
            date=today(),
            machine=machine(),
            versions=_versions(place),
            database="SQLite" if place.mariadb is None else "MariaDB",
            seed=seed,
            minutes=minutes,
            faults=faults.counts + process_faults.counts,
            answers=load.answers.statuses,
            events=referee.jobs.events,
            archived=_archived(place.direct),
            archives=(archiver.completed, archiver.failed),
            statements_failed=0 if place.proxy is None else place.proxy.failed.total(),
            orders=len(orders),
            pauses=[seconds for _, seconds in load.answers.pauses],
            memory_growth=growth,
            findings=referee.findings,
            wrong=wrong,
        )


def _prepare(url: str) -> str:
    """Make the tables and the first key; return its secret."""
    _run("migrate", "--database-url", url)
    made = _run("keys", "create", "--name", "root", "--role", "admin", "--database-url", url)
    connection = connect(url)
    rows(connection, TABLE)
    connection.close()
    return made.stdout.strip()


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(_FAIRLOG), *arguments],
        env=fairlog_environment(),
        capture_output=True,
        text=True,
        check=True,
    )


def _start_servers(
    stack: contextlib.ExitStack, place: Place
) -> tuple[list[FairlogServer], list[LogPipe]]:
    names = ["a"] if place.proxy is None else ["a", "b"]
    logs = [LogPipe(place.folder, name) for name in names]
    servers = [
        stack.enter_context(
            FairlogServer(
                place.url,
                workers=0,
                server_id=name,
                settings=tenants.SETTINGS,
                redirection=f"2>{log.path}",
            )
        )
        for name, log in zip(names, logs, strict=True)
    ]
    return servers, logs


def _drain(place: Place, servers: list[FairlogServer], programs: Programs) -> list[str]:
    """Wait until all jobs have ended; return what went wrong."""
    try:
        wait_until(lambda: all(map(_is_ready, servers)), "all servers are ready again", 60.0)
        tenants.pause_schedules(servers[0].client)
        for program in programs.applications:
            program.kill()
        for what, condition in (
            ("the outbox is empty", lambda: _count(place.direct, "outbox") == 0),
            ("all jobs have ended", lambda: _is_drained(servers[0])),
        ):
            wait_until(condition, what, _DRAIN_SECONDS_MAX)
            time.sleep(1.5)  # for the refusals that the servers have still to record
    except (AssertionError, ServerFailed) as error:
        return [str(error)]
    return []


def _verify(place: Place, archive: Path) -> list[str]:
    done = subprocess.run(
        [str(_FAIRLOG), "verify", "--database-url", place.direct, "--archive", str(archive)],
        env=fairlog_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return []
    return [f"verify: {done.stdout[-3000:]} {done.stderr[-1000:]}"]


def _write_timeline(folder: Path, faults: list[tuple[int, int, str]], answers: Answers) -> None:
    """Write the faults and the long pauses of clients in their order, to be kept with the logs."""
    pauses = [
        (at - round(seconds * 1e6), at, "a submission waited") for at, seconds in answers.pauses
    ]
    with (folder / "timeline.txt").open("w") as file:
        for begin, end, what in sorted([*faults, *pauses]):
            at = datetime.fromtimestamp(begin / 1e6, UTC).isoformat()
            print(at, f"{(end - begin) / 1e6:.3f} s", what, file=file)


def _keep(folder: Path, kept: Path) -> None:
    shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pipe"))


def _lock(url: str, seconds: float) -> None:
    """Hold the lock of the log's head for so long."""
    database = Database(url)
    with database.connect_writer() as connection, connection.begin() as transaction:
        SqlEventLog(database).lock_head(connection)
        time.sleep(seconds)
        transaction.rollback()
    database.close()


def _is_ready(server: FairlogServer) -> bool:
    if server.has_ended():
        with contextlib.suppress(ServerFailed):
            server.start()
    try:
        return server.client.get("/readyz").status_code == 200
    except Exception as error:  # noqa: BLE001 (the transport's)
        print("not ready:", type(error).__name__)
        return False


def _is_drained(server: FairlogServer) -> bool:
    answer = server.client.get("/v1/stats")
    if answer.status_code != 200:
        return False
    counts = answer.json()["jobs"]
    return not any(counts.get(state, 0) for state in ("queued", "running", "scheduled"))


def _count(url: str, table: str) -> int:
    connection = connect(url)
    try:
        [(count,)] = rows(connection, f"SELECT COUNT(*) FROM {table}")
        return int(count)
    finally:
        connection.close()


def _archived(url: str) -> int:
    connection = connect(url)
    try:
        [(position,)] = rows(connection, "SELECT archived FROM log_head")
        return int(position)
    finally:
        connection.close()


def _versions(place: Place) -> list[str]:
    return [] if place.mariadb is None else list(versions([place.mariadb]))


if __name__ == "__main__":
    sys.exit(main())
