"""Faults of servers, writers and the database: one after the other, drawn at random."""

import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support.fault_proxy import FaultProxy
from tests.support.mariadb import MariaDB
from tests.support.server import FairlogServer, ServerFailed

# A statement that fails with these makes a client believe that the server or the account is gone.
_CONNECTION_NUMBERS: Final = (1040, 1042, 1043, 1044, 1045, 1053, 1129, 1130, 1159, 1161, 1226)
_COMMIT_NUMBERS: Final = (1213, 1205, 1020, 1180, 1047, 1021, 1114, 1290, 1062, 1105)
_FULL_NUMBERS: Final = (1021, 1114)  # the disk is full, and the table is
_FILE_BYTES_MAX: Final = 4096  # of a writer whose file may not grow


class LogPipe:
    """The sink of a server's log lines: a pipe whose reader may stop, and a file behind it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.pipe"
        self.file = folder / f"{name}.log"
        os.mkfifo(self.path)
        self._reader = os.open(self.path, os.O_RDWR)  # so that it never ends, and never blocks us
        self._may_read = threading.Event()
        self._may_read.set()
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def stop_reading(self) -> None:
        self._may_read.clear()

    def read_on(self) -> None:
        self._may_read.set()

    def _copy(self) -> None:
        with self.file.open("ab", buffering=0) as file:
            while True:
                self._may_read.wait()
                file.write(os.read(self._reader, 65536))


class Faults:
    """Breaks things for a time, then mends them all. The first server is also killed and restarted;
    the others live as long as the soak, so that their memory can be looked at.
    """

    def __init__(
        self,
        servers: list[FairlogServer],
        logs: list[LogPipe],
        proxy: FaultProxy | None,
        mariadb: MariaDB | None,
        chance: random.Random,
        locked: Callable[[float], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.bad_ends: list[str] = []
        # Begin, end (Unix times in microseconds) and kind of each fault.
        self.timeline: list[tuple[int, int, str]] = []
        self._servers = servers
        self._logs = logs
        self._proxy = proxy
        self._mariadb = mariadb
        self._chance = chance
        self._locked = locked

    def break_for(self, seconds: float) -> None:
        """Blocks. Afterwards everything works again but for what did not mend itself."""
        until = time.monotonic() + seconds
        kinds = self._of_servers()
        if self._proxy is not None:
            kinds |= self._of_database(self._proxy)
        names, weights = list(kinds), [weight for weight, _ in kinds.values()]
        while time.monotonic() < until:
            [name] = self._chance.choices(names, weights)
            self.counts[name] += 1
            began = time.time_ns() // 1000
            kinds[name][1]()
            self._mend_servers()
            self.timeline.append((began, time.time_ns() // 1000, name))
            time.sleep(self._chance.uniform(0.5, 3.0))
        for log in self._logs:
            log.read_on()
        if self._proxy is not None:
            self._proxy.recover()
        self._mend_servers()

    def _of_servers(self) -> dict[str, tuple[float, Callable[[], None]]]:
        """Return the faults of servers and writers by name, each with its weight."""
        faults: dict[str, tuple[float, Callable[[], None]]] = {
            "server killed": (3.0, self._kill_server),
            "server restarted": (0.7, self._restart_server),
            "server frozen": (1.5, self._freeze_server),
            "writer killed": (8.0, self._kill_writer),
            "writer frozen": (2.0, self._freeze_writer),
            "log not read": (1.5, self._stop_log),
            "head locked": (1.5, lambda: self._locked(self._chance.uniform(0.5, 6))),
        }
        if self._proxy is None:
            faults["database filled up"] = (3.0, self._fill_file)
        return faults

    def _of_database(self, proxy: FaultProxy) -> dict[str, tuple[float, Callable[[], None]]]:
        """Return the faults of the database by name, each with its weight."""
        return {
            "statements fail": (4.0, lambda: self._fail_statements(proxy)),
            "commits fail": (3.0, lambda: self._fail_commits(proxy)),
            "connections fail": (1.5, lambda: self._fail_connections(proxy)),
            "connections cut": (2.5, proxy.cut),
            "database hangs": (1.5, lambda: self._hang(proxy)),
            "database slowed": (1.5, lambda: self._slow(proxy)),
            "database filled up": (1.5, lambda: self._fill(proxy)),
            "database killed": (1.5, self._kill_database),
            "database restarted": (0.7, self._restart_database),
            "database frozen": (1.0, self._freeze_database),
        }

    def _mend_servers(self) -> None:
        """Start again what has ended, as a service manager does. A server that was not killed
        must not have ended.
        """
        for server in self._servers:
            if server.has_ended():
                self.bad_ends.append(f"a server has ended after {self.counts.total()} faults")
                self._start_again(server)

    def _start_again(self, server: FairlogServer) -> None:
        while server.has_ended():
            try:
                server.start()
            except ServerFailed:
                continue
            except AssertionError as error:  # it is not ready in time
                self.bad_ends.append(str(error))

    def _fail_statements(self, proxy: FaultProxy) -> None:
        proxy.fail_randomly(self._chance.choice([0.001, 0.01, 0.1, 1.0]))
        time.sleep(self._chance.uniform(0.2, 4))
        proxy.recover()

    def _fail_commits(self, proxy: FaultProxy) -> None:
        for _ in range(self._chance.randint(1, 5)):
            number = self._chance.choice(_COMMIT_NUMBERS)
            proxy.fail("^COMMIT", number, times=self._chance.randint(1, 20))
        time.sleep(self._chance.uniform(0.5, 3))
        proxy.recover()

    def _fail_connections(self, proxy: FaultProxy) -> None:
        proxy.fail_randomly(1.0, _CONNECTION_NUMBERS)
        proxy.refuse_connections()
        proxy.cut()
        time.sleep(self._chance.uniform(0.5, 5))
        proxy.recover()

    def _hang(self, proxy: FaultProxy) -> None:
        seconds = self._chance.uniform(0.5, 8)
        proxy.hang(seconds)
        time.sleep(seconds)

    def _slow(self, proxy: FaultProxy) -> None:
        proxy.slow(self._chance.choice([0.005, 0.02, 0.1]))
        time.sleep(self._chance.uniform(1, 5))
        proxy.recover()

    def _fill(self, proxy: FaultProxy) -> None:
        """Refuse all new rows, as a full disk or table does."""
        proxy.fail("^INSERT", self._chance.choice(_FULL_NUMBERS), times=10**9)
        time.sleep(self._chance.uniform(0.5, 4))
        proxy.recover()

    def _fill_file(self) -> None:
        """Let the writer's files not grow (SQLite), as a full disk does."""
        if (writer := writer_of(self._servers[0])) is not None:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(writer, resource.RLIMIT_FSIZE)
                resource.prlimit(writer, resource.RLIMIT_FSIZE, (_FILE_BYTES_MAX, hard))
                time.sleep(self._chance.uniform(0.5, 4))
                resource.prlimit(writer, resource.RLIMIT_FSIZE, (hard, hard))

    def _kill_database(self) -> None:
        assert self._mariadb is not None
        self._mariadb.kill()
        time.sleep(self._chance.uniform(0.1, 3))
        self._mariadb.start()

    def _restart_database(self) -> None:
        assert self._mariadb is not None
        self._mariadb.stop()
        self._mariadb.start()

    def _freeze_database(self) -> None:
        assert self._mariadb is not None
        self._mariadb.pause()
        time.sleep(self._chance.uniform(0.5, 6))
        self._mariadb.resume()

    def _freeze_writer(self) -> None:
        if (writer := writer_of(self._chance.choice(self._servers))) is not None:
            self._freeze(writer, 10)

    def _freeze_server(self) -> None:
        server = self._chance.choice(self._servers)
        if not server.has_ended():
            self._freeze(server.pid, 6)

    def _freeze(self, pid: int, seconds_max: float) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.5, seconds_max))
            os.kill(pid, signal.SIGCONT)

    def _kill_writer(self) -> None:
        if (writer := writer_of(self._chance.choice(self._servers))) is not None:
            with suppress(ProcessLookupError):
                os.kill(writer, signal.SIGKILL)

    def _kill_server(self) -> None:
        server = self._servers[0]
        if not server.has_ended():
            server.kill()
        self._start_again(server)

    def _restart_server(self) -> None:
        server = self._servers[0]
        try:
            server.terminate()
        except ServerFailed as error:
            self.bad_ends.append(str(error)[-2000:])
        self._start_again(server)

    def _stop_log(self) -> None:
        log = self._chance.choice(self._logs)
        if self._chance.random() < 0.5:
            log.stop_reading()
        else:
            log.read_on()


def writer_of(server: FairlogServer) -> int | None:
    """The process id of its writer; None where there is none."""
    with suppress(ServerFailed):
        return next(iter(server.writers()), None)
    return None


def rss_bytes(pid: int) -> int:
    """Memory that a process holds; 0: it is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
