"""Run a soak, and say what the log and the answers do not agree on. Exit code 1 if anything."""

import argparse
import contextlib
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from adapters.settings import Settings
from domain.language.events import Recorded
from entrypoints.composition import policy_of
from tests.soak.faults import Faults, LogPipe, rss_bytes, writer_of
from tests.soak.judge import ends, judge
from tests.soak.load import Load
from tests.support.fault_proxy import FaultProxy
from tests.support.mariadb import MariaDB
from tests.support.referee import Referee
from tests.support.server import FairlogServer, ServerFailed
from tests.support.waiting import wait_until

SETTINGS: Final = {
    "user_limit": 400,
    "global_limit": 6000,
    "window_seconds": 60,
    "lease_seconds": 10,
}
MEMORY_GROWTH_MAX: Final = 1.25
_EVENTS_PER_PAGE: Final = 5_000


class Memory:
    """Samples what a server and its writer hold, while both live."""

    def __init__(self, server: FairlogServer) -> None:
        self.samples: list[tuple[float, int, int]] = []  # seconds, bytes of the server, the writer
        self._server = server
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def growth(self) -> tuple[float, float]:
        """The last fifth's median as a multiple of that of the second fifth: server, writer."""
        fifth = max(1, len(self.samples) // 5)
        early, late = self.samples[fifth : 2 * fifth], self.samples[-fifth:]
        return tuple(  # type: ignore[return-value]  # of two
            sorted(one[at] for one in late)[len(late) // 2]
            / max(1, sorted(one[at] for one in early)[len(early) // 2])
            for at in (1, 2)
        )

    def _sample(self) -> None:
        while not self._stopping.wait(5):
            with contextlib.suppress(ServerFailed):
                server, writer = self._server.pid, writer_of(self._server)
                if writer is not None:
                    at = time.monotonic() - self._began
                    self.samples.append((at, rss_bytes(server), rss_bytes(writer)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="draws the faults and the load")
    parser.add_argument("--database", choices=["mariadb", "sqlite"], default="mariadb")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the servers' logs")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}, {given.minutes} minutes, {given.database}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fairlog-soak-")))
        if given.keep is not None:
            stack.callback(_keep, folder, given.keep)
        chance = random.Random(seed)
        if given.database == "mariadb":
            mariadb = stack.enter_context(MariaDB())
            direct = mariadb.create_database()
            proxy = stack.enter_context(FaultProxy(direct, random.Random(seed + 1)))
            return _soak(stack, folder, chance, seed, given.minutes * 60, direct, proxy, mariadb)
        direct = f"sqlite:///{folder / 'soak.db'}"
        return _soak(stack, folder, chance, seed, given.minutes * 60, direct, None, None)


def _soak(
    stack: contextlib.ExitStack,
    folder: Path,
    chance: random.Random,
    seed: int,
    seconds: float,
    direct: str,
    proxy: FaultProxy | None,
    mariadb: MariaDB | None,
) -> int:
    names = ["a", "b"] if proxy is not None else ["a"]
    url = direct if proxy is None else proxy.url
    logs = [LogPipe(folder, name) for name in names]
    servers = [
        stack.enter_context(
            FairlogServer(
                url, workers=0, server_id=name, settings=SETTINGS, redirection=f"2>{log.path}"
            )
        )
        for name, log in zip(names, logs, strict=True)
    ]
    memory = Memory(servers[-1])
    faults = Faults(servers, logs, proxy, mariadb, chance, lambda held: _lock(direct, held))
    found: list[str] = []
    with Load([server.url for server in servers], seed) as load:
        faults.break_for(seconds)
        for what, condition, most in (
            ("all servers are ready again", lambda: all(map(_is_ready, servers)), 60.0),
            ("all jobs have ended", lambda: _is_drained(servers[0]), 120.0),
        ):
            try:
                wait_until(condition, what, most)
            except ServerFailed as error:
                found.append(str(error))
            load.is_submitting = False
    memory.stop()
    recorded = list(_events(direct))
    found += judge(load.answers, recorded)
    found += [f"a server that was not killed has ended: {one}" for one in faults.unexpected_ends]
    policy = policy_of(msgspec.convert(SETTINGS, Settings))
    try:
        Referee(policy).see_all(recorded)
    except AssertionError as error:
        found.append(f"the referee objects: {error}")
    growth = memory.growth()
    if seconds >= 600 and max(growth) > MEMORY_GROWTH_MAX:
        found.append(f"memory has grown by {growth}")
    for server in servers:
        server.terminate()
    fairlog = Path(sys.executable).with_name("fairlog")
    verified = subprocess.run(
        [str(fairlog), "verify", "--database-url", direct],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if verified.returncode != 0:
        found.append(f"verify: {verified.stdout[-3000:]} {verified.stderr[-1000:]}")
    print("faults:", dict(faults.counts))
    if proxy is not None:
        print("statements failed:", proxy.failed.total(), "of", len(proxy.failed), "kinds")
    print("answers:", dict(sorted(load.answers.statuses.items())))
    print("events:", dict(ends(recorded)))
    print("memory, late beside early (server, writer):", growth, memory.samples[-1:])
    for sentence in found:
        print("WRONG:", sentence)
    print("all agree" if not found else f"{len(found)} kinds of disagreement")
    return 1 if found else 0


def _keep(folder: Path, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, kept)


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
    except OSError:
        return False
    except Exception as error:  # noqa: BLE001 (the transport's)
        print("not ready:", type(error).__name__)
        return False


def _is_drained(server: FairlogServer) -> bool:
    answer = server.client.get("/v1/stats")
    if answer.status_code != 200:
        return False
    counts = answer.json()["jobs"]
    return not any(counts.get(state, 0) for state in ("queued", "running", "scheduled"))


def _events(url: str) -> Iterator[Recorded]:
    database = Database(url)
    log = SqlEventLog(database)
    after = 0
    with database.read() as connection:
        while page := log.read(connection, after, _EVENTS_PER_PAGE):
            yield from page
            after = page[-1].position
    database.close()


if __name__ == "__main__":
    sys.exit(main())
