"""The log is the only truth: with every other table dropped, a start gives back the same state."""

from typing import Any, Final

import httpx
from sqlalchemy import NullPool, create_engine, inspect, make_url, text
from sqlalchemy.engine import Connection, Engine

from tests.support.clock import LONGEST_WINDOW
from tests.support.server import FairlogServer, claim, submit
from tests.support.waiting import wait_until

TRUTH: Final = {"events": "*", "bodies": "*", "log_head": "position, hash, recorded_at"}
MIGRATIONS: Final = "alembic_version"
# Which building of a projection a row belongs to, and how many there were, is no part of the state.
BOOKKEEPING: Final = {"generation", "newest"}
# Beside the log and no part of it: who runs now, who is logged in, when workers polled last, which
# claims were given nothing lately, and submissions that are not in the log yet. All are made again
# empty, and what they say is lost with them.
BESIDE: Final = {
    "live_servers",
    "lost_events",
    "dashboard_sessions",
    "worker_polls",
    "empty_claims",
    "outbox",
    "outbox_rejected",
}
OURS: Final = {
    "jobs_v6",
    "job_counts_v6",
    "noted_claims_v6",
    "line_users_v3",
    "line_lanes_v3",
    "line_kinds_v3",
    "line_queues_v3",
    "line_resources_v3",
    "line_starts_v3",
    "parents_v1",
    "window_counters_v3",
    "limits_v3",
    "callbacks_v1",
    "schedules_v1",
}
SETTINGS: Final = {"user_limit": 30, "window_seconds": LONGEST_WINDOW, "lease_seconds": 86_400}

Rows = dict[str, list[tuple[Any, ...]]]


def engine_of(url: str) -> Engine:
    return create_engine(make_url(url), poolclass=NullPool)


def built_tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {*TRUTH, MIGRATIONS}


def built_rows(connection: Connection) -> Rows:
    """Every row of every table that was built from the log, in an order of their own."""
    found: Rows = {}
    for table in built_tables(connection) - BESIDE:
        columns = [column["name"] for column in inspect(connection).get_columns(table)]
        kept = ", ".join(name for name in columns if name not in BOOKKEEPING)
        rows = connection.execute(text(f"SELECT {kept} FROM {table}"))
        found[table] = sorted((tuple(row) for row in rows), key=repr)
    return found


def truth(connection: Connection) -> Rows:
    """All but the head's count of the buildings that became current."""
    return {
        table: [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM {table}"))]
        for table, columns in TRUTH.items()
    }


def has_caught_up(engine: Engine) -> bool:
    """Return True if the asynchronous projections are at the end of the log."""
    with engine.connect() as connection:
        behind: int = connection.execute(
            text(
                "SELECT COUNT(*) FROM projection_checkpoints"
                " WHERE position < (SELECT position FROM log_head)"
            )
        ).scalar_one()
    return behind == 0


def live_eventfully(client: httpx.Client) -> None:
    """Bring jobs of several users and kinds into every state, and use up a limit."""
    client.put("/v1/limits/bob", json={"limit": 25, "running": 2})
    client.put("/v1/limits", json={"limit": 1000})
    client.put("/v1/kinds/mail", json={"running": 3})
    schedule = {"cron": "0 0 29 2 *", "user_id": "ada", "kind": "mail"}
    client.put("/v1/schedules/seldom", json=schedule).raise_for_status()
    throttle = {"limit": 1000, "seconds": 3600}
    client.put("/v1/resources/shop", json={"throttle": throttle, "running": 20}).raise_for_status()
    for number in range(27):
        for user in ("ada", "bob", "Ädä 😀"):
            kind = ("echo", "mail", "thumb")[number % 3]
            body = {"user_id": user, "kind": kind, "payload": {"n": number}, "priority": number % 2}
            resources = ["shop"] if kind == "thumb" else []
            answer = client.post("/v1/jobs", json=body | {"resources": resources})
            assert answer.status_code in {202, 429}
    client.put("/v1/callbacks/ends", json={"url": "https://a.example/"}).raise_for_status()
    later = submit(client, "eve", run_at="2099-01-01T00:00:00Z", expires_at="2100-01-01T00:00:00Z")
    submit(client, "eve", payload="waits", after=[later["id"]])
    submit(client, "eve", payload="again", idempotency_key="k")
    client.post(
        "/v1/jobs",
        json={"user_id": "eve", "kind": "echo", "payload": "again", "idempotency_key": "k"},
    )
    client.post(
        "/v1/jobs",
        json={"user_id": "eve", "kind": "echo", "payload": "other", "idempotency_key": "k"},
    )
    jobs = claim(client, 8, claim_id="c1") + claim(client, 8, worker="w2", kinds=["echo", "thumb"])
    assert len(jobs) > 8
    done, failed, retried, cancelled, returned, *_ = jobs
    client.post(f"/v1/jobs/{done['id']}/complete", json={"attempt": 1, "result": ["r"]})
    client.post(f"/v1/jobs/{failed['id']}/fail", json={"attempt": 1, "error": "e", "retry": False})
    client.post(f"/v1/jobs/{retried['id']}/fail", json={"attempt": 1, "error": {"message": "m"}})
    client.post(f"/v1/jobs/{cancelled['id']}/cancel")
    client.post(
        "/v1/claims/return", json={"worker": "w1", "jobs": [{"id": returned["id"], "attempt": 1}]}
    )
    wait_until(
        lambda: client.get(f"/v1/jobs/{retried['id']}").json()["state"] == "queued",
        "the failed attempt is due again",
    )
    client.put("/v1/limits/bob", json={"limit": 30, "running": 2})  # a retry is a submission
    assert client.post(f"/v1/jobs/{failed['id']}/retry").is_success
    assert claim(client, kinds=["none"], claim_id="c2") == []
    # One of each user at least, and with them one that the first claim had started.
    again, *_ = claim(client, 3, worker="w3", kinds=[failed["kind"]])
    client.post(
        f"/v1/jobs/{again['id']}/fail",
        json={"attempt": again["attempt"], "error": "e2", "retry": False},
    )


def as_users_see_it(client: httpx.Client) -> dict[str, Any]:
    stats = client.get("/v1/stats").json()
    stats.pop("rates")  # of the process
    return {
        "stats": stats,
        "jobs": client.get("/v1/jobs", params={"limit": 1000, "include": "payload,result"}).json(),
        "limits": [client.get(f"/v1/limits/{user}").json() for user in ("ada", "bob", "eve")],
    }


def test_with_all_but_the_log_dropped_a_start_gives_back_every_row(database_url: str) -> None:
    engine = engine_of(database_url)
    with FairlogServer(database_url, settings=SETTINGS) as server:
        live_eventfully(server.client)
        seen = as_users_see_it(server.client)
        assert {state for state, count in seen["stats"]["jobs"].items() if count} == {
            "scheduled",
            "queued",
            "running",
            "done",
            "failed",
            "cancelled",
        }
        wait_until(lambda: has_caught_up(engine), "the projectors are at the log's end")
        server.terminate()

        with engine.begin() as connection:
            log, before = truth(connection), built_rows(connection)
            assert [table for table in OURS if not before[table]] == [], (
                "an empty table would prove nothing"
            )
            for table in built_tables(connection):
                connection.execute(text(f"DROP TABLE {table}"))
            assert built_tables(connection) == set()

        server.start()
        wait_until(lambda: has_caught_up(engine), "the projectors are at the log's end again")
        assert as_users_see_it(server.client) == seen
        with engine.connect() as connection:
            after = built_rows(connection)
            assert truth(connection) == log
        assert after.keys() == before.keys()
        for table, rows in before.items():
            assert after[table] == rows, table
        submit(server.client, "the next", payload="goes on")
    engine.dispose()
