"""Prometheus sees what the writer, the log and the HTTP API do."""

from datetime import timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.settings import Settings
from domain.fairness.start_limits import Hold
from entrypoints.http.kind_metrics import KINDS_MAX
from tests.conftest import NewDatabase
from tests.support.clock import ManualClock
from tests.support.server import AppServer, claim, submit
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(user_limit=1)


def test_the_figures_add_up_to_what_was_done(client: httpx.Client) -> None:
    submit(client, user_id="alice", payload=1)
    refused = client.post("/v1/jobs", json={"user_id": "alice", "kind": "echo", "payload": 2})
    assert refused.status_code == 429

    figures = scrape(client)

    assert figures["fairlog_submissions_decided_total", "allowed=true,scope=user"] == 1
    assert figures["fairlog_submissions_decided_total", "allowed=false,scope=user"] == 1
    assert figures["fairlog_events_total", "reason=,type=JobSubmitted"] == 1
    assert figures["fairlog_jobs", "state=queued"] == 1
    assert figures["fairlog_queue_commands", ""] == 0
    assert figures["fairlog_batch_seconds_count", ""] >= 2
    assert figures["fairlog_batch_commands_sum", ""] >= 2
    assert figures["fairlog_writer_retries_total", ""] == 0
    posts = "method=POST,path=/v1/jobs,status="
    assert figures["fairlog_http_request_seconds_count", f"{posts}202"] == 1
    assert figures["fairlog_http_request_seconds_count", f"{posts}429"] == 1


def test_each_following_projection_says_how_far_behind_it_is(client: httpx.Client) -> None:
    assert ("fairlog_projection_lag_events", "projection=activity") in scrape(client)


def test_open_jobs_are_counted_by_kind_with_the_time_of_the_longest_waiting(
    new_database_url: NewDatabase,
) -> None:
    clock = ManualClock()
    with AppServer(new_database_url(), clock=clock) as server:
        for user in ("alice", "bob"):
            submit(server.client, user_id=user, kind="export")
        later = (clock.now() + timedelta(hours=1)).isoformat()
        submit(server.client, user_id="alice", kind="mail", run_at=later)
        clock.advance(40)
        submit(server.client, user_id="carol", kind="export")
        claim(server.client)
        clock.advance(2)

        figures = scrape(server.client)

    assert figures["fairlog_kind_jobs_waiting", "kind=export"] == 2
    assert figures["fairlog_kind_jobs_running", "kind=export"] == 1
    assert 42 <= figures["fairlog_kind_oldest_waiting_seconds", "kind=export"] < 50
    assert ("fairlog_kind_jobs_waiting", "kind=mail") not in figures  # it is scheduled


def test_what_limits_on_starts_hold_back_is_counted_by_reason(
    client: httpx.Client, clock: ManualClock
) -> None:
    def set_limit(path: str, **limits: object) -> None:
        client.put(f"/v1/{path}", json=limits).raise_for_status()

    def held() -> list[float]:
        figures = scrape(client)
        jobs = [figures["fairlog_held_jobs", f"reason={one}"] for one in Hold]
        return [*jobs, figures["fairlog_throttled_users", ""]]

    throttle = {"limit": 1, "seconds": 10}
    set_limit("kinds/export", paused=True)
    set_limit("resources/shop:*", throttle=throttle)
    set_limit("resources/shop:one", running=1)
    set_limit("limits/alice", throttle=throttle, limit=100)
    jobs = [
        ("bob", "export", []),
        *(("carol", "call", ["shop:one"]) for _ in range(3)),
        *(("dave", "call", ["shop:two"]) for _ in range(4)),
        *(("alice", "mail", []) for _ in range(2)),
        ("erin", "mail", []),
    ]
    for user in ("carol", "dave"):
        set_limit(f"limits/{user}", limit=100)
    for number, (user, kind, resources) in enumerate(jobs):
        submit(client, user, kind=kind, payload=number, resources=resources)
    assert held() == [1, 0, 0, 0]
    assert len(claim(client, 10)) == 4
    assert held() == [1, 2, 3, 1]
    clock.advance(10)  # the leases last longer
    assert held()[:3] == [1, 2, 0]
    set_limit("limits", paused=True)
    assert held()[:3] == [7, 0, 0]


def test_attempts_are_counted_by_kind_and_outcome_with_their_run_time(
    new_database_url: NewDatabase,
) -> None:
    clock = ManualClock()
    with AppServer(new_database_url(), clock=clock) as server:
        done = submit(server.client, kind="export")["id"]
        failed = submit(server.client, kind="export", payload=2, max_attempts=1)["id"]
        lost = submit(server.client, kind="mail")["id"]
        claim(server.client, 3)
        before = scrape(server.client)
        assert before["fairlog_kind_attempts_total", "kind=export,outcome=error"] == 0
        assert before["fairlog_kind_jobs_failed_total", "kind=export"] == 0
        clock.advance(20)
        for path, outcome in (
            (f"/v1/jobs/{done}/complete", {"result": None}),
            (f"/v1/jobs/{failed}/fail", {"error": "disk full"}),
        ):
            answer = server.client.post(path, json={"attempt": 1, **outcome})
            assert answer.status_code == 200, answer.text
        clock.advance(20)  # beyond the lease

        def figure(name: str, labels: str) -> float | None:
            return scrape(server.client).get((name, labels))

        wait_until(
            lambda: figure("fairlog_kind_attempts_total", "kind=mail,outcome=lease_lost") == 1,
            f"the attempt of job {lost} is lost",
        )
        figures = scrape(server.client)

    assert figures["fairlog_kind_attempts_total", "kind=export,outcome=done"] == 1
    assert figures["fairlog_kind_attempts_total", "kind=export,outcome=error"] == 1
    assert figures["fairlog_kind_jobs_failed_total", "kind=export"] == 1
    assert figures["fairlog_kind_run_seconds_count", "kind=export"] == 2
    assert 40 <= figures["fairlog_kind_run_seconds_sum", "kind=export"] < 50
    assert figures["fairlog_kind_run_seconds_bucket", "kind=export,le=10.0"] == 0
    assert figures["fairlog_kind_run_seconds_bucket", "kind=export,le=30.0"] == 2
    assert figures["fairlog_kind_run_seconds_count", "kind=mail"] == 0


def test_kinds_beyond_the_limit_share_one_label(new_database_url: NewDatabase) -> None:
    surplus = 5
    with AppServer(new_database_url(), Settings(user_limit=10_000)) as server:
        names = [f"kind-{number:03}" for number in range(KINDS_MAX + surplus)]
        jobs = [{"user_id": name, "kind": name, "payload": 1} for name in names] * 2
        jobs = [{**job, "idempotency_key": str(key)} for key, job in enumerate(jobs)]
        sent = server.client.post("/v1/jobs/batch", json={"jobs": jobs})
        assert sent.status_code == 200, sent.text
        claimed = claim(server.client, len(names))
        outcomes = [{"id": one["id"], "attempt": 1, "result": None} for one in claimed]
        body = {"worker": "w1", "jobs": outcomes}
        assert server.client.post("/v1/claims/complete", json=body).status_code == 200

        figures = scrape(server.client)

    for name in ("fairlog_kind_jobs_waiting", "fairlog_kind_run_seconds_count"):
        labels = [found for metric, found in figures if metric == name]
        assert len(labels) == KINDS_MAX + 1
        assert figures[name, "kind=(others)"] == surplus


def test_metrics_and_dashboard_tell_it(new_database_url: NewDatabase) -> None:
    clock, limit = ManualClock(), 10**9
    settings = Settings(size_limit_bytes=limit)
    with AppServer(new_database_url(), settings, clock) as running:
        submit(running.client, user_id="alice", kind="echo")
        clock.advance(12 * 3600)
        figures = scrape(running.client)
        assert figures["fairlog_log_events", ""] == 2
        assert figures["fairlog_log_events_per_day", ""] == pytest.approx(4)
        assert figures["fairlog_database_limit_bytes", ""] == limit
        assert (
            figures["fairlog_database_bytes", ""] >= figures["fairlog_table_bytes", "table=events"]
        )
        assert figures["fairlog_database_days_to_limit", ""] > 1
        assert figures["fairlog_database_growth_bytes_per_day", ""] > 0
        page = running.client.get("/").text
        assert "The database holds 2 events" in page
        assert "1 GB, the limit that is set, will be reached in" in page


def scrape(client: httpx.Client) -> dict[tuple[str, str], float]:
    """(name, labels as text): value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (
            sample.name,
            ",".join(f"{name}={value}" for name, value in sample.labels.items()),
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
