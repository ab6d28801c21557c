"""Rows of the outbox while servers, writers and the database are killed: each is one job."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import httpx
import sqlalchemy as sa
from msgspec import Struct

from adapters.log.outbox import outbox, outbox_rejected
from tests.support.mariadb import MariaDB
from tests.support.outbox_program import connector, is_bad
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, audit, ending_with_us
from tests.support.waiting import wait_until

SETTINGS = {"user_limit": 1_000_000, "global_limit": 1_000_000}
PROGRAM: Final = "tests.support.outbox_program"
DRAIN_SECONDS_MAX: Final = 60.0


class Scale(Struct, frozen=True):
    programs: int
    rows: int  # of each program
    kills: int


SCALE: Final = Scale(programs=4, rows=300, kills=4)


class Fates(Struct):
    """The programs' own record of what became of their rows, by number."""

    committed: set[int]
    unknown: set[int]  # the database was killed while it was asked to commit


@contextmanager
def programs(url: str, scale: Scale, directory: Path) -> Iterator[Callable[[], bool]]:
    """Run them. Yields a function that says whether all have ended."""
    with ExitStack() as stack:
        processes = []
        for number in range(scale.programs):
            output = stack.enter_context((directory / f"{number}.txt").open("wb"))
            arguments = [url, str(number * scale.rows), str(scale.rows), str(number)]
            process = subprocess.Popen(
                [*ending_with_us(), sys.executable, "-m", PROGRAM, *arguments],
                cwd=ROOT,
                stdout=output,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield lambda: all(process.poll() == 0 for process in processes)


def fates(directory: Path) -> Fates:
    found = Fates(set(), set())
    for file in directory.glob("*.txt"):
        for line in file.read_text().splitlines():
            fate, *numbers = line.split()
            if fate == "committed":
                found.committed.update(map(int, numbers))
            elif fate == "unknown":
                found.unknown.update(map(int, numbers))
    return found


def left_in(url: str, table: sa.Table) -> int:
    connect, _ = connector(url)
    connection = connect()
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT COUNT(*) FROM {table.name}")
        return int(cursor.fetchone()[0])
    finally:
        connection.close()


def numbers_of_jobs(client: httpx.Client) -> Counter[int]:
    found: Counter[int] = Counter()
    query = {"limit": "1000", "include": "payload"}
    while True:
        page = client.get("/v1/jobs", params=query).raise_for_status().json()
        found.update(job["payload"] for job in page["jobs"])
        if page["next"] is None:
            return found
        query["cursor"] = page["next"]


def rejected_numbers(url: str) -> Counter[int]:
    connect, _ = connector(url)
    with closing(connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT payload, reason FROM outbox_rejected")
        rows = cursor.fetchall()
    assert all("payload" in reason for _, reason in rows)
    return Counter(int(payload.removeprefix("[")) for payload, _ in rows)


def check(url: str, servers: Sequence[FairlogServer], directory: Path) -> None:
    wait_until(lambda: left_in(url, outbox) == 0, "the outbox is empty", DRAIN_SECONDS_MAX)
    known = fates(directory)
    jobs = numbers_of_jobs(servers[0].client)
    rejected = rejected_numbers(url)
    assert known.committed
    assert max((jobs + rejected).values()) == 1
    found = set(jobs) | set(rejected)
    assert known.committed <= found <= known.committed | known.unknown
    assert set(rejected) == {number for number in found if is_bad(number)}
    submitted = audit(servers[0].client, type="JobSubmitted")
    assert len(submitted) == len(jobs)


def test_exactly_the_committed_rows_become_jobs_while_servers_are_killed(
    database_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        count = 1 if database_url.startswith("sqlite") else 2
        servers = [
            stack.enter_context(FairlogServer(database_url, settings=SETTINGS))
            for _ in range(count)
        ]
        kill_under_load(database_url, SCALE, tmp_path, [one_kill(server) for server in servers])
        check(database_url, servers, tmp_path)


def test_exactly_the_committed_rows_become_jobs_while_the_database_is_killed(
    private_mariadb: MariaDB, tmp_path: Path
) -> None:
    url = private_mariadb.create_database()

    def kill_database() -> None:
        private_mariadb.kill()
        private_mariadb.start()

    with FairlogServer(url, settings=SETTINGS) as server:
        kill_under_load(url, SCALE, tmp_path, [kill_database, one_kill(server)])
        server.wait_until_ready()
        check(url, [server], tmp_path)


def one_kill(server: FairlogServer) -> Callable[[], None]:
    def kill() -> None:
        server.kill()
        server.start()

    return kill


def kill_under_load(
    url: str, scale: Scale, directory: Path, kills: Sequence[Callable[[], None]]
) -> None:
    chance = random.Random(7)
    with programs(url, scale, directory) as have_ended:
        for number in range(scale.kills):
            time.sleep(chance.uniform(0.05, 0.4))
            kills[number % len(kills)]()
        wait_until(have_ended, "the programs have ended", DRAIN_SECONDS_MAX)


def test_a_row_that_plain_sql_inserted_is_run(database_url: str) -> None:
    connect, _ = connector(database_url)
    with FairlogServer(database_url, settings=SETTINGS, workers=2) as server:
        connection = connect()
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                "INSERT INTO outbox (user_id, kind, payload) VALUES ('ada', 'echo', '{\"a\": 1}')"
            )
            connection.commit()
        connection.close()
        wait_until(lambda: len(audit(server.client, type="JobCompleted")) == 1, "it is done", 10.0)
        [job] = server.client.get("/v1/jobs?include=result").json()["jobs"]
        assert (job["user_id"], job["state"], job["result"]) == ("ada", "done", {"a": 1})


def test_the_statements_of_the_documentation_do_what_it_says(database_url: str) -> None:
    text = (ROOT / "docs" / "transactional.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```sql\n")[1:]]
    connect, _ = connector(database_url)
    with FairlogServer(database_url, settings=SETTINGS, workers=1) as server:
        connection = connect()
        for block in blocks:
            for statement in filter(str.strip, block.split(";\n")):
                with closing(connection.cursor()) as cursor:
                    cursor.execute(statement.rstrip(";"))
            connection.commit()
        connection.close()
        wait_until(
            lambda: len(audit(server.client, type="JobSubmitted")) == 2, "both are jobs", 10.0
        )
        jobs = server.client.get("/v1/jobs?include=payload").json()["jobs"]
        assert [job["payload"] for job in jobs] == [{"order": 18}, {"order": 17}]
        assert [job["run_at"] for job in jobs] == ["2026-12-24T17:00:00Z", None]


def test_a_rejected_row_is_shown_to_the_person_on_call(database_url: str) -> None:
    connect, _ = connector(database_url)
    with FairlogServer(database_url, settings=SETTINGS) as server:
        connection = connect()
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                "INSERT INTO outbox (user_id, kind, payload) VALUES ('<b>ada</b>', 'echo', '{')"
            )
            connection.commit()
        connection.close()
        wait_until(lambda: left_in(database_url, outbox_rejected) == 1, "it is rejected", 10.0)
        page = server.client.get("/", headers={"Accept": "text/html"}).text
        assert "Rejected rows of the outbox" in page
        assert "&lt;b&gt;ada&lt;/b&gt;" in page
        assert "Not accepted: payload: " in page
        assert "fairlog_outbox_rejected_rows 1.0" in server.client.get("/metrics").text
