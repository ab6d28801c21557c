"""docs/examples/orders.py and orders.mjs: an order and its job exist together, or neither does."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.repository import ROOT
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until

EXAMPLES = ROOT / "docs" / "examples"
MODULES = ROOT / ".examples" / "node_modules"  # `make .examples` installs them


def check(database_url: str, orders: dict[int, str]) -> None:
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT id, item FROM orders ORDER BY id").all()
    engine.dispose()
    assert {row[0]: row[1] for row in found} == orders
    with FairlogServer(database_url, workers=2) as server:
        query = "/v1/jobs?user_id=shop&state=done&include=payload"

        def jobs() -> list[object]:
            return [job["payload"] for job in server.client.get(query).json()["jobs"]]

        wait_until(lambda: len(jobs()) == len(orders), "all jobs are done")
        expected = [{"order": number, "item": item} for number, item in orders.items()]
        assert jobs() == expected[::-1]


@pytest.fixture
def prepared(database_url: str) -> str:
    """A database with Fairlog's tables."""
    with FairlogServer(database_url):
        return database_url


def test_an_order_in_python(prepared: str) -> None:
    command = [sys.executable, str(EXAMPLES / "orders.py"), prepared, "tea", "cup", ""]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (1, "An order needs an item.\n")
    assert ran.stdout == "order 1: tea\norder 2: cup\n"
    check(prepared, {1: "tea", 2: "cup"})


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_an_order_in_node(prepared: str, tmp_path: Path) -> None:
    assert MODULES.exists(), "Run `make .examples` first."
    program = shutil.copy(EXAMPLES / "orders.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    url = sa.make_url(prepared).set(drivername="mysql", query={})
    command = ["node", program, url.render_as_string(hide_password=False), "tea", "", "cup"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "An order needs an item.\n")
    assert ran.stdout == "order 1: tea\norder 3: cup\n"
    check(prepared, {1: "tea", 3: "cup"})
