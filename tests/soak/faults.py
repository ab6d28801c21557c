"""The faults of a soak: one after the other, drawn at random."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.fault_proxy import FaultProxy
from tests.support.mariadb import MariaDB
from tests.support.server import FairlogServer, ServerFailed

# A statement that fails with these makes a client believe that the server or the account is gone.
_CONNECTION_NUMBERS = (1040, 1042, 1043, 1044, 1045, 1053, 1129, 1130, 1159, 1161, 1226)


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
    """Breaks things until it is stopped, then mends them all. The first server is also killed; the
    others live as long as the soak, so that their memory can be looked at.
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
        self.unexpected_ends: list[str] = []
        self._servers = servers
        self._logs = logs
        self._proxy = proxy
        self._mariadb = mariadb
        self._chance = chance
        self._locked = locked

    def break_for(self, seconds: float) -> None:
        """Blocks. Afterwards everything works again but for what did not mend itself."""
        until = time.monotonic() + seconds
        kinds: dict[str, Callable[[], None]] = {
            "writer stopped": self._stop_writer,
            "server killed": self._kill_server,
            "writer killed": self._kill_writer,
            "log not read": self._stop_log,
            "head locked": lambda: self._locked(self._chance.uniform(0.5, 6)),
        }
        weights = {
            "server killed": 1.0,
            "writer killed": 1.0,
            "writer stopped": 2.0,
            "log not read": 2.0,
            "head locked": 2.0,
        }
        if self._proxy is not None:
            kinds |= {
                "statements fail": self._fail_statements,
                "commits fail": self._fail_commits,
                "connections fail": self._fail_connections,
                "connections cut": self._cut,
                "database hangs": self._hang,
                "database killed": self._kill_database,
            }
            weights |= {
                "statements fail": 8.0,
                "commits fail": 6.0,
                "connections fail": 2.0,
                "connections cut": 3.0,
                "database hangs": 2.0,
                "database killed": 0.5,
            }
        while time.monotonic() < until:
            [name] = self._chance.choices(list(kinds), [weights[one] for one in kinds])
            self.counts[name] += 1
            kinds[name]()
            self._mend_servers()
            time.sleep(self._chance.uniform(0.5, 3.0))
        for log in self._logs:
            log.read_on()
        if self._proxy is not None:
            self._proxy.recover()
        self._mend_servers()

    def _mend_servers(self) -> None:
        """Start again what has ended, as a service manager does."""
        for server in self._servers:
            if server.has_ended():
                if server is not self._servers[0]:
                    self.unexpected_ends.append(f"after {self.counts.total()} faults")
                with suppress(ServerFailed):  # it is tried again after the next fault
                    server.start()

    def _fail_statements(self) -> None:
        assert self._proxy is not None
        self._proxy.fail_randomly(self._chance.choice([0.001, 0.01, 0.1, 1.0]))
        time.sleep(self._chance.uniform(0.2, 4))
        self._proxy.recover()

    def _fail_commits(self) -> None:
        assert self._proxy is not None
        for _ in range(self._chance.randint(1, 5)):
            number = self._chance.choice(
                [1213, 1205, 1020, 1180, 1047, 1021, 1114, 1290, 1062, 1105]
            )
            self._proxy.fail("^COMMIT", number, times=self._chance.randint(1, 20))
        time.sleep(self._chance.uniform(0.5, 3))
        self._proxy.recover()

    def _fail_connections(self) -> None:
        assert self._proxy is not None
        self._proxy.fail_randomly(1.0, _CONNECTION_NUMBERS)
        self._proxy.refuse_connections()
        self._proxy.cut()
        time.sleep(self._chance.uniform(0.5, 5))
        self._proxy.recover()

    def _cut(self) -> None:
        assert self._proxy is not None
        self._proxy.cut()

    def _hang(self) -> None:
        assert self._proxy is not None
        seconds = self._chance.uniform(0.5, 8)
        self._proxy.hang(seconds)
        time.sleep(seconds)

    def _kill_database(self) -> None:
        assert self._mariadb is not None
        self._mariadb.kill()
        time.sleep(self._chance.uniform(0.1, 3))
        self._mariadb.start()

    def _stop_writer(self) -> None:
        server = self._chance.choice(self._servers)
        if (writer := writer_of(server)) is not None:
            with suppress(ProcessLookupError):
                os.kill(writer, signal.SIGSTOP)
                time.sleep(self._chance.uniform(0.5, 10))
                os.kill(writer, signal.SIGCONT)

    def _kill_writer(self) -> None:
        if (writer := writer_of(self._servers[0])) is not None:
            with suppress(ProcessLookupError):
                os.kill(writer, signal.SIGKILL)
            time.sleep(2)

    def _kill_server(self) -> None:
        with suppress(ServerFailed):
            self._servers[0].kill()

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
