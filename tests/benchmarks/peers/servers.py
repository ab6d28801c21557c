"""Private PostgreSQL and Redis servers, as durable as the databases that Fairlog is measured on."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tests.support.ports import free_port
from tests.support.server import ending_with_us
from tests.support.waiting import wait_until

START_SECONDS_MAX: Final = 30.0  # usual: 0.3
_FOLDER: Final = Path("/var/tmp")  # noqa: S108 (on disk, where /tmp may be memory; mkdtemp names it)


class PeerServer(ABC):
    """A server in a folder of its own, on a free port of loopback; a context manager."""

    settings = ""  # what makes it as durable as it is, for the report

    def __init__(self) -> None:
        self.port = free_port()
        self._home = Path(tempfile.mkdtemp(prefix="fairlog-peers-", dir=_FOLDER))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._prepare()
        with (self._home / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*ending_with_us(), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(self._answers, "the server answers", START_SECONDS_MAX)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS_MAX)
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    @abstractmethod
    def version(self) -> str: ...

    def _prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Make the data that the server starts on."""

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...


class Postgres(PeerServer):
    settings = "fsync=on, synchronous_commit=on"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def version(self) -> str:
        return _output(str(_postgres("postgres")), "--version").split()[-1].strip(")")

    def _prepare(self) -> None:
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(self._home, account.pw_uid, account.pw_gid)
        initdb = [str(_postgres("initdb")), "-D", str(self._home / "data")]
        _output(*_as_postgres(), *initdb, "--auth=trust", "--username=postgres")

    def _command(self) -> Sequence[str]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._home,
            "shared_buffers": "1GB",
        }
        named = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [
            *_as_postgres(),
            str(_postgres("postgres")),
            "-D",
            str(self._home / "data"),
            *named,
        ]

    def _answers(self) -> bool:
        status = self._home / "data" / "postmaster.pid"
        return status.exists() and "ready" in status.read_text()


class Redis(PeerServer):
    settings = "appendfsync always"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def version(self) -> str:
        return _output("redis-server", "--version").split("v=")[1].split()[0]

    def _command(self) -> Sequence[str]:
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._home,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        return [
            "redis-server",
            *[part for name, value in options.items() for part in (f"--{name}", str(value))],
        ]

    def _answers(self) -> bool:
        asked = ["redis-cli", "-p", str(self.port), "ping"]
        return b"PONG" in subprocess.run(asked, check=False, capture_output=True).stdout


def _postgres(program: str) -> Path:
    """Debian keeps them where users do not look. Raises `RuntimeError` where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)
    elsewhere = shutil.which(program)
    if not found and elsewhere is None:
        raise RuntimeError(f"There is no {program} here; install PostgreSQL.")
    return found[0] if found else Path(str(elsewhere))


def _as_postgres() -> Sequence[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] * (
        os.geteuid() == 0
    )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
