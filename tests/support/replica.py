"""A server and its replica, by the replication of MariaDB or MySQL itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.support.mariadb import MYSQLD, MariaDB
from tests.support.waiting import wait_until

NAME: Final = "fairlog_replicated"

_ACCOUNT: Final = (
    "CREATE USER IF NOT EXISTS 'replica'@'127.0.0.1' IDENTIFIED BY 'replica'",
    "GRANT REPLICATION SLAVE ON *.* TO 'replica'@'127.0.0.1'",
)
# Of the replica from its start; the primary begins to wait once a replica is there.
_SEMI_SYNC: Final = (
    (
        "--plugin-load-add=semisync_source.so",
        "--plugin-load-add=semisync_replica.so",
        "--rpl-semi-sync-source-timeout=60000",
        "--rpl-semi-sync-replica-enabled=ON",
    )
    if MYSQLD
    else ("--rpl-semi-sync-master-timeout=60000", "--rpl-semi-sync-slave-enabled=ON")
)


class Pair:
    """The `primary`, and the `replica` that applies what is written there."""

    def __init__(self, primary: MariaDB, replica: MariaDB) -> None:
        self.primary = primary
        self.replica = replica

    @property
    def url(self) -> str:
        """Both as hosts of one database, the primary first."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.replica.port}"
        return f"mysql+pymysql://fairlog:fairlog@{hosts}/{NAME}"

    @property
    def replica_url(self) -> str:
        return f"mysql+pymysql://fairlog:fairlog@127.0.0.1:{self.replica.port}/{NAME}"

    def begin(self) -> None:
        """Make the database, and have the replica follow the primary."""
        _run(self.primary, *_ACCOUNT)
        source = f"HOST='127.0.0.1', {{0}}PORT={self.primary.port}, {{0}}USER='replica'"
        if MYSQLD:
            named = f"SOURCE_{source.format('SOURCE_')}, SOURCE_PASSWORD='replica'"
            change = f"CHANGE REPLICATION SOURCE TO {named}, GET_SOURCE_PUBLIC_KEY=1"
            _run(self.replica, f"{change}, SOURCE_AUTO_POSITION=1", "START REPLICA")
        else:
            named = f"MASTER_{source.format('MASTER_')}, MASTER_PASSWORD='replica'"
            _run(self.replica, f"CHANGE MASTER TO {named}, MASTER_USE_GTID=slave_pos")
            _run(self.replica, "START SLAVE")
        self.replica.set_read_only()
        _run(self.primary, f"CREATE DATABASE {NAME}")

    def fall_behind(self) -> None:
        """Let the replica receive nothing more."""
        _run(self.replica, "STOP REPLICA IO_THREAD" if MYSQLD else "STOP SLAVE IO_THREAD")

    def promote(self) -> None:
        """Make the replica accept writes, once it has applied what it had received."""
        status = "SHOW REPLICA STATUS" if MYSQLD else "SHOW SLAVE STATUS"
        wait_until(lambda: self._has_applied(status), "the replica has applied what it received")
        for word in ("STOP", "RESET"):
            _run(self.replica, f"{word} {'REPLICA' if MYSQLD else 'SLAVE'}")
        self.replica.set_read_only(is_read_only=False)

    def _has_applied(self, status: str) -> bool:
        with self.replica.connect() as connection, connection.cursor() as cursor:
            cursor.execute(status)
            row = cursor.fetchone()
            names = [column[0] for column in cursor.description or ()]
            assert row is not None, "it is a replica"
            state = dict(zip(names, row, strict=True))
        return any("has read all relay log" in str(value) for value in state.values())


@contextmanager
def replicated(*, is_semi_sync: bool = False) -> Iterator[Pair]:
    """Yield a primary and its replica. With `is_semi_sync`, a commit is answered when the replica
    has received it.
    """
    log = ("--log-bin=log", "--binlog-format=ROW", "--sync-binlog=1")
    triggers = ("--log-bin-trust-function-creators=ON",)  # that they may be made
    gtid = ("--gtid-mode=ON", "--enforce-gtid-consistency=ON") if MYSQLD else ()
    semi_sync = _SEMI_SYNC if is_semi_sync else ()
    options = (*log, *triggers, *gtid, *semi_sync)
    with (
        MariaDB([*options, "--server-id=1"]) as primary,
        MariaDB([*options, "--server-id=2"]) as replica,
    ):
        pair = Pair(primary, replica)
        pair.begin()
        if is_semi_sync:
            name = "source" if MYSQLD else "master"
            _run(primary, f"SET GLOBAL rpl_semi_sync_{name}_enabled = ON")
        yield pair


def _run(server: MariaDB, *statements: str) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
