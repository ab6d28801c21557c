"""The tutorial of an application: each block is run, then what its units start is run."""

import shlex
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.blocks import blocks
from tests.support.deployment import (
    DEPLOY,
    FAIRLOG,
    Started,
    checked,
    started,
    unit_options,
    variables,
)
from tests.support.mariadb import MariaDB
from tests.support.repository import ROOT
from tests.support.terminals import Reader
from tests.support.waiting import wait_until

PAGE: Final = ROOT / "docs" / "tutorial" / "own-application.md"
UNITS: Final = DEPLOY / "systemd"
HOST: Final = "127.0.0.1"


class Machine:
    """A machine on which the page's last block was followed: its units, with folders of a test."""

    def __init__(self, reader: Reader) -> None:
        self.folder = reader.folder
        self._url = f"http://{HOST}:{reader.port(8000)}"
        self._server_port = reader.port(8000)
        units = self.folder / "units"
        (units / "fairlog-worker.service.d").mkdir(parents=True)
        for file in UNITS.glob("*.service"):
            self._install(file, units / file.name)
        self._install(self.folder / "shop-web.service", units / "shop-web.service")
        self._install(
            self.folder / "shop-worker.conf", units / "fairlog-worker.service.d" / "shop.conf"
        )
        self.units = units

    def _install(self, source: Path, target: Path) -> None:
        text = source.read_text()
        for installed, here in {
            "/opt/fairlog/bin/fairlog": str(FAIRLOG),
            "/opt/shop": str(self.folder / "shop"),
            "/etc/shop.env": str(self.folder / "shop.env"),
            "/etc/fairlog/server.env": str(self.folder / "server.env"),
            "http://127.0.0.1:8000": self._url,
            "%H": socket.gethostname(),
        }.items():
            text = text.replace(installed, here)
        target.write_text(text)

    def start(self, name: str, *options: str) -> AbstractContextManager[Started]:
        """Start what a unit starts, with its variables."""
        unit = unit_options(
            self.units / f"{name}.service", *self.units.glob(f"{name}.service.d/*.conf")
        )
        [command], [file] = unit["ExecStart"], unit["EnvironmentFile"]
        environment = variables(Path(file))
        environment |= dict(one.split("=", 1) for one in unit["Environment"])
        for variable in unit["UnsetEnvironment"]:
            del environment[variable]
        folder = Path(unit["WorkingDirectory"][-1])
        folder = folder if folder.exists() else self.folder
        return started([*shlex.split(command), *options], environment, folder, name)

    def start_server(self) -> AbstractContextManager[Started]:
        return self.start("fairlog-server", "--port", str(self._server_port))

    def wait_until_served(self, server: Started) -> None:
        server.wait_until_ready(self._url, HOST)


@pytest.mark.timeout(600)  # usual: 60
def test_an_application_is_written_and_deployed_with_a_worker_of_its_own(
    tmp_path: Path, private_mariadb: MariaDB
) -> None:
    with Reader(tmp_path, {}, server=private_mariadb) as reader:
        for block in blocks(PAGE):
            if block.not_run is None:
                reader.follow(block)
        reader.interrupt()
        machine = Machine(reader)
        shop = httpx.Client(base_url=f"http://{HOST}:{reader.port(8080)}", timeout=30)
    for name in ("fairlog-worker", "shop-web"):
        assert checked("systemd-analyze", "verify", f"{machine.units}/{name}.service") == ""
    with shop, machine.start("shop-web") as web:
        wait_until(lambda: "running on" in web.output, "the shop is served", 60)
        order = {"customer": "bob", "item": "a table"}
        # The service is not there yet: the order is taken all the same.
        placed = shop.post("/orders", json=order).raise_for_status().json()
        with machine.start_server() as server:
            machine.wait_until_served(server)
            with machine.start("fairlog-worker") as worker:
                path = f"/orders/{placed['id']}"
                wait_until(lambda: shop.get(path).json()["invoice"] is not None, "the invoice")
                assert shop.get(path).json()["invoice"] == "Invoice 1: a table for bob"
                worker.stop()
            server.stop()
