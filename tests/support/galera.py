"""A Galera cluster of three nodes on loopback, each a server of its own.

`FAIRLOG_TEST_GALERA` names the folder that `tests/setup/fetch-galera.sh` has made.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

import pymysql

from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.waiting import wait_until

NODES: Final = 3
SYNCED_SECONDS_MAX: Final = 120.0  # usual: 10, with a state transfer
NAME: Final = "fairlog_cluster"

_FOLDER: Final = Path(os.environ.get("FAIRLOG_TEST_GALERA", ".galera")).resolve()


class Node(MariaDB):
    """One node. It joins the cluster at its start, by a state transfer where that is needed."""

    def __init__(self, number: int, groups: Sequence[int]) -> None:
        """`groups` are the ports at which the nodes find each other, in the nodes' order."""
        # State transfers do not work as root.
        super().__init__(program=_FOLDER / "bin" / "mariadbd", may_be_root=False)
        self.number = number
        self._groups = groups
        self._makes_cluster = False
        self._start_position: str | None = None

    def make_cluster(self) -> None:
        """Start as the first node of a new cluster."""
        self._makes_cluster = True
        try:
            self.start()
        finally:
            self._makes_cluster = False

    def status(self, name: str) -> str:
        """Return a variable of the status, like `wsrep_local_state_comment`; empty: no answer."""
        with (
            suppress(pymysql.Error, OSError),
            self.connect() as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SHOW STATUS LIKE %s", (name,))
            row = cursor.fetchone()
            return "" if row is None else str(row[1])
        return ""

    def is_synced(self) -> bool:
        """Return True if it is a part of the cluster, and has all of its writes."""
        return (
            self.status("wsrep_local_state_comment") == "Synced"
            and self.status("wsrep_cluster_status") == "Primary"
        )

    def sees(self, nodes: int) -> bool:
        """Return True if so many nodes are in the cluster, as far as it knows."""
        return self.is_synced() and self.status("wsrep_cluster_size") == str(nodes)

    def isolate(self, *, is_isolated: bool = True) -> None:
        """Cut the node off from the others, or let it find them again."""
        with self.connect() as connection, connection.cursor() as cursor:
            options = f"gmcast.isolate={int(is_isolated)}"
            cursor.execute(f"SET GLOBAL wsrep_provider_options = '{options}'")

    def wait_for_others(self) -> None:
        """Let reads of new connections wait for what was committed on other nodes before."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET GLOBAL wsrep_sync_wait = 1")

    def environment(self) -> dict[str, str]:
        scripts = _FOLDER / "root" / "usr" / "bin"  # of state transfers
        return os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:{scripts}"}

    def arguments(self) -> Sequence[str]:
        own = self._groups[self.number]
        addresses = ",".join(f"127.0.0.1:{port}" for port in self._groups)
        provider = _FOLDER / "root" / "usr" / "lib" / "galera" / "libgalera_smm.so"
        options = (
            f"gmcast.listen_addr=tcp://127.0.0.1:{own}",
            f"ist.recv_addr=127.0.0.1:{free_port()}",
            "pc.recovery=false",
            "gcache.size=64M",
        )
        return [
            "--innodb-autoinc-lock-mode=2",
            "--binlog-format=ROW",
            "--log-bin-trust-function-creators=ON",  # that triggers may be made
            "--wsrep-on=ON",
            f"--wsrep-provider={provider}",
            "--wsrep-cluster-name=fairlog",
            f"--wsrep-cluster-address=gcomm://{'' if self._makes_cluster else addresses}",
            f"--wsrep-node-name=n{self.number}",
            f"--wsrep-node-address=127.0.0.1:{own}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address=127.0.0.1:{free_port()}",
            f"--wsrep-provider-options={';'.join(options)}",
            *(["--wsrep-new-cluster"] if self._makes_cluster else []),
        ]


class Cluster:
    """A context manager: three nodes, synced, with a database of the name NAME."""

    def __init__(self) -> None:
        groups = [free_port() for _ in range(NODES)]
        self.nodes = [Node(number, groups) for number in range(NODES)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for node in self.nodes:
            self._stack.callback(node.close)
            node.initialise()
        self.nodes[0].make_cluster()
        for nodes, node in enumerate(self.nodes[1:], 2):
            node.start()
            wait_until(partial(node.sees, nodes), f"node {node.number} joins", SYNCED_SECONDS_MAX)
        with self.nodes[0].connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {NAME}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, *numbers: int) -> str:
        """Return the URL of the database at these nodes, in this order; by default at all."""
        chosen = [self.nodes[number] for number in numbers or range(NODES)]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in chosen)
        return f"mysql+pymysql://fairlog:fairlog@{hosts}/{NAME}"

    def wait_until_whole(self) -> None:
        """Return when each node has all, and sees all others."""
        for node in self.nodes:
            wait_until(
                partial(node.sees, NODES), f"node {node.number} sees all", SYNCED_SECONDS_MAX
            )
