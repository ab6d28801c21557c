"""A database written by one release, in a file that every later release can load.

`python -m tests.support.release_log tests/corpus/release_NAME.jsonl` records this release: a log
with every type of event and jobs in every state, all other tables, and the answers of the API.
Each line is a JSON object:

    {"schema": {"sqlite": […], "mysql": […]}}   the statements that create tables and triggers
    {"table": name, "columns": […]}             then {"row": […]} for each row; bytes as {"hex": …}
    {"now": …}                                  the log's time when the answers were given
    {"path": …, "answer": …}                    one for each GET request
"""

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import sqlalchemy as sa
from msgspec import Struct

from adapters.settings import Settings
from tests.support import history
from tests.support.clock import ManualClock
from tests.support.databases import SqliteFiles
from tests.support.mariadb import MariaDB
from tests.support.server import AppServer
from tests.support.waiting import wait_until

SETTINGS: Final = Settings(user_limit=40, global_limit=100, max_attempts=2)
ROUNDS: Final = 4
REFUSALS_COUNTED_SECONDS: Final = 1.0  # by then a refusal is an event
_USERS: Final = ("alice", "bob", "càrol ")
_TABLE_OPTIONS: Final = re.compile(
    r" DEFAULT CHARSET=\w+| COLLATE=\w+|^\) ENGINE=\w+", re.MULTILINE
)


class ReleaseLog(Struct):
    """A file's content."""

    schema: dict[str, list[str]]  # statements, by the dialect's name
    tables: dict[str, list[dict[str, Any]]]  # rows, by the table's name
    now: datetime
    answers: dict[str, Any]  # by path and query


def read(path: Path) -> ReleaseLog:
    found = ReleaseLog({}, {}, datetime.min.replace(tzinfo=UTC), {})
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        match msgspec.json.decode(line):
            case {"schema": schema}:
                found.schema = schema
            case {"table": table, "columns": columns}:
                rows = found.tables[table] = []
            case {"row": values}:
                rows.append(dict(zip(columns, map(_restored, values), strict=True)))
            case {"now": now}:
                found.now = datetime.fromisoformat(now)
            case {"path": asked, "answer": answer}:
                found.answers[asked] = answer
    return found


def load(recorded: ReleaseLog, database_url: str) -> None:
    """Create the tables in an empty database with that release's own statements, and fill them."""
    engine = sa.create_engine(database_url)
    dialect = "sqlite" if engine.dialect.name == "sqlite" else "mysql"
    tables = [one for one in recorded.schema[dialect] if not one.startswith("CREATE TRIGGER")]
    triggers = [one for one in recorded.schema[dialect] if one.startswith("CREATE TRIGGER")]
    with engine.begin() as connection:
        for statement in tables:
            connection.exec_driver_sql(statement.replace("%", "%%"))
        for name, rows in recorded.tables.items():
            if rows:
                table = sa.table(name, *(sa.column(column) for column in rows[0]))
                connection.execute(table.insert(), rows)
        for statement in triggers:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


def write(path: Path) -> None:
    """Write a log on MariaDB and record it; SQLite gives only its schema."""
    with MariaDB() as server, tempfile.TemporaryDirectory() as folder:
        sqlite = SqliteFiles(Path(folder)).create_database()
        with AppServer(sqlite, SETTINGS, ManualClock()):
            pass
        url, clock = server.create_database(), ManualClock()
        with AppServer(url, SETTINGS, clock) as app:
            history.tell_everything(app.fairlog, clock)
            for number in range(ROUNDS):
                _work(app.client, number)
                clock.advance(61)
            _leave_jobs_in_every_state(app.client, clock)
            _wait_for_projectors(app.client, url)
            answers = {asked: _ask(app.client, asked) for asked in _questions(app.client)}
        lines: list[Any] = [{"schema": {"sqlite": _schema(sqlite), "mysql": _schema(url)}}]
        lines += _rows(url)
        lines.append({"now": clock.now().isoformat()})
        lines += [{"path": asked, "answer": answer} for asked, answer in answers.items()]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def _work(client: httpx.Client, number: int) -> None:
    """Submit in bulk, claim, and report each kind of outcome."""
    jobs = [
        {"user_id": user, "kind": kind, "payload": [number, index], "priority": index % 3}
        for index in range(5)
        for user, kind in zip(_USERS, ("echo", "thumb", "mail"), strict=True)
    ]
    _post(client, "/v1/jobs/batch", {"jobs": jobs})
    claimed = _post(client, "/v1/claims", {"worker": "w1", "max": 6})["jobs"]
    held = [{"id": job["id"], "attempt": job["attempt"]} for job in claimed]
    _post(client, "/v1/claims/return", {"worker": "w1", "jobs": held[:1]})
    for job in held[1:4]:
        body = {"attempt": job["attempt"], "result": {"of": job["id"]}}
        _post(client, f"/v1/jobs/{job['id']}/complete", body)
    for job in held[4:]:
        body = {"attempt": job["attempt"], "error": {"message": "no paper"}}
        _post(client, f"/v1/jobs/{job['id']}/fail", body)
    _post(client, "/v1/jobs/retry", {"state": "failed", "limit": 2})


def _leave_jobs_in_every_state(client: httpx.Client, clock: ManualClock) -> None:
    tomorrow = (clock.now() + timedelta(days=1)).isoformat()
    for index, user in enumerate(_USERS):
        wish = {"user_id": user, "kind": "mail", "payload": {"last": index}}
        _post(client, "/v1/jobs", wish | {"run_at": tomorrow})
        cancelled = _post(client, "/v1/jobs", wish | {"payload": "unwanted"})
        _post(client, f"/v1/jobs/{cancelled['id']}/cancel", {})
        _post(client, "/v1/jobs", wish | {"max_attempts": 1, "priority": 9, "payload": "bad"})
        keyed = {"priority": 9, "idempotency_key": f"k{index}"}
        client.post("/v1/jobs", json=wish | keyed)  # one more than bob's limit
    for _ in range(3):
        for job in _post(client, "/v1/claims", {"worker": "w2", "max": 4})["jobs"]:
            attempt = {"attempt": job["attempt"]}
            if job["payload"] == "bad":
                error = {"error": {"message": "never"}, "retry": False}
                client.post(f"/v1/jobs/{job['id']}/fail", json=attempt | error)
            elif job["id"] % 3:
                _post(client, f"/v1/jobs/{job['id']}/complete", attempt)
    for number in range(2):  # one is left running
        _post(client, "/v1/jobs", {"user_id": "dora", "kind": "long", "payload": number})
    assert _post(client, "/v1/claims", {"worker": "w3", "kinds": ["long"]})["jobs"]
    client.put("/v1/limits/alice", json={"limit": 30, "running": 4})


def _questions(client: httpx.Client) -> Iterator[str]:
    position = client.get("/v1/stats").json()["position"]
    yield "/v1/stats"
    yield "/v1/limits"
    for user in (*_USERS, "dora"):
        yield f"/v1/limits/{user}"
        yield f"/v1/jobs?user_id={user}&limit=100&include=payload,result"
    for job in _job_ids(client):
        yield f"/v1/jobs/{job}"
        for as_of in (position // 2, position * 3 // 4):
            if as_of >= job:
                yield f"/v1/jobs/{job}?as_of={as_of}"
    for as_of in range(position // 8, position, position // 8):
        yield f"/v1/stats?as_of={as_of}"


def _job_ids(client: httpx.Client) -> list[int]:
    events = client.get("/v1/audit", params={"type": "JobSubmitted", "limit": 1000}).json()
    return [event["position"] for event in events["events"]][::3]


def _ask(client: httpx.Client, asked: str) -> Any:
    response = client.get(asked)
    assert response.status_code == 200, (asked, response.text)
    answer = response.json()
    answer.pop("rates", None)  # of the process, not of the log
    return answer


def _post(client: httpx.Client, path: str, body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.is_success, (path, response.text)
    return response.json()


def _wait_for_projectors(client: httpx.Client, url: str) -> None:
    engine = sa.create_engine(url)
    refusals_are_counted = time.monotonic() + 2 * REFUSALS_COUNTED_SECONDS

    def have_caught_up() -> bool:
        if time.monotonic() < refusals_are_counted:
            return False
        position = client.get("/v1/stats").json()["position"]
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT position FROM projection_checkpoints"))
            return all(at == position for (at,) in found)

    wait_until(have_caught_up, "all projections have reached the head position")
    engine.dispose()


def _schema(url: str) -> list[str]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            kinds = "CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END"
            query = f"SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY {kinds}, name"
            statements = [sql for (sql,) in connection.execute(sa.text(query))]
        else:
            names = sa.inspect(connection).get_table_names()
            created = [connection.execute(sa.text(f"SHOW CREATE TABLE {one}")) for one in names]
            statements = [_TABLE_OPTIONS.sub(_kept, one.one()[1]) for one in created]
            triggers = connection.execute(sa.text("SHOW TRIGGERS")).mappings().all()
            statements += [
                f"CREATE TRIGGER {one['Trigger']} {one['Timing']} {one['Event']}"
                f" ON {one['Table']} FOR EACH ROW {one['Statement']}"
                for one in triggers
            ]
    engine.dispose()
    return statements


def _kept(found: re.Match[str]) -> str:
    """Keep the engine and drop the character set, which is the database's default."""
    return found[0] if found[0].startswith(")") else ""


def _rows(url: str) -> Iterator[dict[str, Any]]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            found = connection.execute(sa.text(f"SELECT * FROM {name}"))
            yield {"table": name, "columns": list(found.keys())}
            for row in found:
                yield {"row": [_stored(value) for value in row]}
    engine.dispose()


def _stored(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _restored(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


if __name__ == "__main__":
    write(Path(sys.argv[1]))
