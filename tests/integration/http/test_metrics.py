"""Prometheus sees what the writer, the log and the HTTP door do."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.settings import Settings
from tests.support.server import submit


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
