"""A private MariaDB (or MySQL): its own folder, port and accounts, gone when the test is.

`FAIRLOG_TEST_MYSQLD` names a MySQL server program to run in its place (`make test-mysql`), and
`FAIRLOG_TEST_MARIADBD` another MariaDB's, beside its `mariadb-install-db` (`make test-mariadb-11`).

It runs on `--no-defaults`, so on the server's own character set (latin1 on MariaDB), with a
`max_allowed_packet` of 16 MiB and commits that are as durable as in production. In memory (tmpfs)
an fsync costs nothing, and a killed server finds all it had written; for figures that mean
something, give it a folder on a disk.
"""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Self, TypedDict

import pymysql
from sqlalchemy import URL

from tests.support.databases import DatabaseServer
from tests.support.ports import free_port

ROOM_IN_MEMORY_MIN = 2 * 1024**3  # bytes free in /dev/shm; an idle server takes 0.1 GB of them
START_SECONDS_MAX = 60.0  # usual: 0.2
STOP_SECONDS_MAX = 30.0  # usual: 0.1
MYSQLD = os.environ.get("FAIRLOG_TEST_MYSQLD")  # the program; None: MariaDB is tested
# The program in the place of this machine's MariaDB; None: that is tested.
OTHER_SERVER = MYSQLD or os.environ.get("FAIRLOG_TEST_MARIADBD")

_PREFIX = "fairlog-mariadb-"
# Small and quick to start, on both. MySQL has its binary log on by default, which Debian's MariaDB
# has not; a test that wants one says so.
_SMALL = "--innodb-buffer-pool-size=64M"
_MARIADB_OPTIONS = (_SMALL, "--innodb-log-file-size=32M")
_MYSQL_OPTIONS = (
    _SMALL,
    "--innodb-redo-log-capacity=32M",
    "--skip-log-bin",
    "--mysqlx=OFF",
    "--secure-file-priv=NULL",
)

# Not root: privileges that production has not would hide faults (a SUPER user may create triggers
# under a binary log, and write to a read-only server).
_ACCOUNTS = r"""
CREATE USER IF NOT EXISTS 'admin'@'127.0.0.1' IDENTIFIED BY 'admin';
GRANT ALL ON *.* TO 'admin'@'127.0.0.1' WITH GRANT OPTION;
CREATE USER IF NOT EXISTS 'fairlog'@'127.0.0.1' IDENTIFIED BY 'fairlog';
GRANT ALL ON `fairlog\_%`.* TO 'fairlog'@'127.0.0.1';
""".lstrip()


class ServerFailed(Exception):
    """The server cannot be made, started or reached; the message ends with its error log."""


class MariaDB(DatabaseServer):
    """One server process that a test may stop, kill, freeze and start again, on the same data.

    A context manager: made and started on entry; killed, and its folder removed, on exit.
    Start it from a thread that lives as long as it should: the system ends it with that thread
    (so that no server outlives a killed test run).

    `options` are more arguments for the server (`"--innodb-lock-wait-timeout=1"`).
    `directory` is where to make its folder, and open to the account `mysql` (pytest's `tmp_path`
    is not, for root); None: in memory where there is room, else on disk.
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        directory: Path | None = None,
        program: Path | None = None,
        *,
        may_be_root: bool = True,
    ) -> None:
        """`program` is another MariaDB, beside its `mariadb-install-db`, or a MySQL; None: the one
        that is tested.
        """
        _remove_what_dead_runs_left()
        self.port = free_port()
        super().__init__(self._url("admin"), self._url("fairlog"))
        self._options = options
        self._program = program or (Path(OTHER_SERVER) if OTHER_SERVER else None)
        self.is_mysql = self._program is not None and self._program.name.startswith("mysqld")
        # A server in a checkout runs as root, since other accounts need not be able to enter it.
        self._is_root = os.geteuid() == 0 and self._program is not None and may_be_root
        self._home = _new_home(directory or _roomy_directory(), is_root=self._is_root)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.initialise()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id. Raises ServerFailed when it does not run."""
        return self._running().pid

    @property
    def socket(self) -> Path:
        """The Unix socket, on which root needs no password."""
        return self._home / "socket"

    @property
    def data(self) -> Path:
        """The folder of its data, with a folder for each database."""
        return self._home / "data"

    @property
    def error_log(self) -> str:
        """Everything that the server has logged since its first start."""
        logs = [self._home / "output.log", self._home / "error.log"]
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def start(self) -> None:
        """Start on the same data and port; return when it answers.

        Raises ServerFailed when it runs already, ends, or does not answer within 60 seconds.
        """
        if self._process is not None:
            raise ServerFailed(f"it runs already, as process {self._process.pid}")
        with (self._home / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*_ending_with_us(), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=self.environment(),
                **_as_server_user(is_root=self._is_root),
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Shut it down in order; return when it has ended. Paused or not, that goes on."""
        process = self._running()
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"no end within {STOP_SECONDS_MAX} s\n{self.error_log}") from None
        self._process = None

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; return when it has ended."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def set_read_only(self, *, is_read_only: bool = True) -> None:
        """Make it refuse what accounts without a special right would write, or accept it again."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET GLOBAL read_only = {int(is_read_only)}")

    def close(self) -> None:
        """Kill it if it runs, and remove all it wrote."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _url(self, account: str) -> URL:
        return URL.create("mysql+pymysql", account, account, "127.0.0.1", self.port)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ServerFailed("it does not run: start() it first")
        return self._process

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the server's process."""
        return os.environ

    def arguments(self) -> Sequence[str]:
        """Return more arguments, for each start anew."""
        return ()

    def initialise(self) -> None:
        """Make the folder of its data."""
        data = self._home / "data"
        if self.is_mysql:  # that takes seconds, so once a process
            template = str(_mysql_template(*self._server()))
            _run(["cp", "--archive", "--sparse=always", template, str(data)], is_root=True)
            # It has the server's UUID: a replica takes nothing from a server that has its own.
            (data / "auto.cnf").unlink(missing_ok=True)
            return
        if self._program is not None:
            other = self._program.with_name("mariadb-install-db")
            installer = [str(other), *self._server()[1:]]
        elif program := _program("mariadb-install-db"):
            method = "--auth-root-authentication-method=normal"
            installer = [program, "--no-defaults", method, "--skip-test-db"]
        else:
            raise ServerFailed("there is no mariadb-install-db beside mariadbd")
        _run(
            [
                *installer,
                f"--datadir={data}",
                # Two at once would remove each other's temporary tables from a shared folder.
                f"--tmpdir={self._home}",
            ],
            is_root=self._is_root,
        )

    def _server(self) -> list[str]:
        """The program and the options that come first."""
        program = str(self._program or _machines_own())
        return [program, "--no-defaults", *(["--user=root"] if self._is_root else [])]

    def _command(self) -> list[str]:
        accounts = self._home / "accounts.sql"
        accounts.write_text(_ACCOUNTS)
        accounts.chmod(0o644)
        return [
            *self._server(),
            f"--datadir={self._home / 'data'}",
            # A server that starts removes the temporary files of others from a shared folder.
            f"--tmpdir={self._home}",
            f"--socket={self.socket}",
            f"--pid-file={self._home / 'pid'}",
            f"--log-error={self._home / 'error.log'}",
            f"--init-file={accounts}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-connections=300",
            "--max-allowed-packet=16M",
            "--innodb-flush-log-at-trx-commit=1",
            "--performance-schema=OFF",
            *(_MYSQL_OPTIONS if self.is_mysql else _MARIADB_OPTIONS),
            *self._options,
            *self.arguments(),
        ]

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.connect().close()
            except pymysql.OperationalError as error:
                if process.poll() is not None:
                    self._process = None
                    raise ServerFailed(f"it ended at its start\n{self.error_log}") from None
                if time.monotonic() > deadline:
                    self.kill()
                    raise ServerFailed(f"no answer: {error}\n{self.error_log}") from None
                time.sleep(0.01)
            else:
                return


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: Sequence[int]


def _run(command: Sequence[str], *, is_root: bool) -> None:
    user = _as_server_user(is_root=is_root)
    made = subprocess.run(command, capture_output=True, text=True, check=False, **user)
    if made.returncode:
        raise ServerFailed(f"{command[0]} failed\n{made.stdout}\n{made.stderr}")


@cache
def _mysql_template(*server: str) -> Path:
    """An empty data folder to copy, made once a process and removed at its end."""
    home = _new_home(_roomy_directory(), is_root=True)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    data = home / "data"
    made = [*server, "--initialize-insecure", f"--datadir={data}", *_MYSQL_OPTIONS]
    _run(made, is_root=True)
    return data


def _as_server_user(*, is_root: bool) -> _Identity:
    """The account to run as: MariaDB had better not be root."""
    if os.geteuid() != 0 or is_root:
        return {}
    account = _server_account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _server_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("mysql")
    except KeyError:  # made by the package of the service, not by that of the program
        return pwd.getpwnam("nobody")


def _ending_with_us() -> list[str]:
    setpriv = _program("setpriv")  # of util-linux
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _machines_own() -> str:
    server = _program("mariadbd")
    if server is None:
        raise ServerFailed(
            "this test starts and stops a database server of its own, whatever "
            "FAIRLOG_TEST_DATABASE_URL says: install mariadbd (on Debian: mariadb-server-core)"
        )
    return server


def _program(name: str) -> str | None:
    # Debian keeps servers where users do not look.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")


def _roomy_directory() -> Path:
    memory = Path("/dev/shm")  # noqa: S108  (mkdtemp makes the name there, and nobody else may enter)
    if memory.is_dir() and shutil.disk_usage(memory).free >= ROOM_IN_MEMORY_MIN:
        return memory
    return Path(tempfile.gettempdir())


def _new_home(directory: Path, *, is_root: bool) -> Path:
    home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=directory))
    if os.geteuid() == 0 and not is_root:
        account = _server_account()
        os.chown(home, account.pw_uid, account.pw_gid)
    return home


def _remove_what_dead_runs_left() -> None:
    """Remove the folders of test runs that were killed before they could: they fill the memory."""
    for directory in {_roomy_directory(), Path(tempfile.gettempdir())}:
        for home in directory.glob(f"{_PREFIX}*-*"):
            owner = home.name.removeprefix(_PREFIX).split("-")[0]
            if owner.isdigit() and not _is_alive(int(owner)):
                shutil.rmtree(home, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
