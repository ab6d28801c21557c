"""Pictures of each view, of a living system. Made only when asked: FAIRLOG_SCREENSHOTS=1."""

import os
import random
import threading
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from tests.conftest import NewDatabase
from tests.support.browser import window
from tests.support.repository import ROOT
from tests.support.server import FairlogServer

FOLDER = ROOT / "docs" / "screenshots"
SECONDS_OF_LIFE = float(os.environ.get("FAIRLOG_SCREENSHOT_SECONDS", "240"))
HANDLERS = """
import random
import time

def thumbnail(payload):
    time.sleep(random.uniform(0.02, 0.15))
    return {"url": f"/thumbs/{payload['image']}.webp", "width": 320}

def export(payload):
    time.sleep(random.uniform(0.3, 1.2))
    return {"rows": random.randrange(10_000)}

def webhook(payload):
    time.sleep(random.uniform(0.05, 0.3))
    if random.random() < 0.12:
        raise ConnectionError(f"no answer from {payload['host']}")
    return {"status": 200}

def summarize(payload):
    time.sleep(random.uniform(0.2, 0.6))
    if random.random() < 0.05:
        raise ValueError("the model gave no text")
    return {"words": random.randrange(50, 200)}
"""

pytestmark = [
    pytest.mark.skipif("FAIRLOG_SCREENSHOTS" not in os.environ, reason="only when asked"),
    pytest.mark.timeout(900),
    pytest.mark.parametrize("backend", ["sqlite"], indirect=True),
]


def live(url: str, stop: threading.Event) -> None:
    """Customers submit, one of them far more than all others."""
    chance = random.Random(3)
    customers = ["globex", "initech", "umbrella", "hooli", "stark", "wayne", "wonka", "tyrell"]
    number = 0
    with httpx.Client(base_url=url) as client:
        while not stop.is_set():
            number += 1
            user = "acme" if chance.random() < 0.45 else chance.choice(customers)
            kind = chance.choice(["thumbnail", "thumbnail", "webhook", "summarize", "export"])
            payload = {"image": f"{number:05}", "host": f"hooks.{user}.example", "order": number}
            more = {"run_at": "2100-01-01T00:00:00Z"} if number % 400 == 0 else {}
            client.post(
                "/v1/jobs", json={"user_id": user, "kind": kind, "payload": payload, **more}
            )
            if number % 150 == 0:
                newest = client.get("/v1/jobs", params={"state": "queued", "limit": 1}).json()
                for job in newest["jobs"]:
                    client.post(f"/v1/jobs/{job['id']}/cancel")
            stop.wait(chance.expovariate(14 + 8 * (time.monotonic() // 40 % 2)))


def test_screenshots(browser: Browser, new_database_url: NewDatabase, tmp_path: Path) -> None:
    handlers = tmp_path / "customers.py"
    handlers.write_text(HANDLERS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    settings = {"handlers": handlers, "user_limit": 300}
    with FairlogServer(new_database_url(), workers=4, settings=settings) as server:
        stop = threading.Event()
        customers = threading.Thread(target=live, args=(server.url, stop))
        customers.start()
        try:
            time.sleep(SECONDS_OF_LIFE)
            query: dict[str, str | int] = {"type": "JobFailed", "limit": 1000}
            failed = server.client.get("/v1/audit", params=query).json()["events"]
            job_id = failed[len(failed) // 2]["job_id"]
            views = {
                "overview": "/",
                "fairness": "/fairness",
                "limits": "/limits?user=acme",
                "jobs": "/jobs",
                "job": f"/jobs/{job_id}",
                "audit": "/audit",
            }
            for theme in ("light", "dark"):
                with window(browser, server.url, theme=theme, height=900) as opened:
                    for name, path in views.items():
                        page = opened.go(path)
                        page.wait_for_timeout(1500)
                        page.screenshot(path=FOLDER / f"{name}-{theme}.png")
        finally:
            stop.set()
            customers.join()
