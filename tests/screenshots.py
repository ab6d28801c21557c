"""`python -m tests.screenshots [--seconds N]`: pictures of each view, of a living system.

They are written to docs/screenshots. A server serves customers for so many seconds (default 240),
so that the charts have something to show.
"""

import argparse
import random
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from tests.support.browser import chromium, window
from tests.support.repository import ROOT
from tests.support.server import FairlogServer

FOLDER: Final = ROOT / "docs" / "screenshots"
SECONDS_OF_LIFE: Final = 240.0
SECONDS_OF_A_VIEW: Final = 1.5  # for its charts to be drawn
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


def pictures(folder: Path, seconds_of_life: float) -> None:
    """Let a server live for a while, and write a picture of each view in each theme."""
    with TemporaryDirectory() as directory:
        handlers = Path(directory) / "customers.py"
        handlers.write_text(HANDLERS)
        settings = {"handlers": handlers, "user_limit": 300}
        url = f"sqlite:///{directory}/fairlog.db"
        with FairlogServer(url, workers=4, settings=settings) as server:
            stop = threading.Event()
            customers = threading.Thread(target=live, args=(server.url, stop))
            customers.start()
            try:
                time.sleep(seconds_of_life)
                take(server, folder)
            finally:
                stop.set()
                customers.join()


def take(server: FairlogServer, folder: Path) -> None:
    failed = server.client.get("/v1/audit", params={"type": "JobFailed", "limit": 1000})
    events = failed.json()["events"]
    job_id = events[len(events) // 2]["job_id"]
    views = {
        "overview": "/",
        "fairness": "/fairness",
        "limits": "/limits?user=acme",
        "jobs": "/jobs",
        "job": f"/jobs/{job_id}",
        "audit": "/audit",
    }
    with chromium() as browser:
        for theme in ("light", "dark"):
            with window(browser, server.url, theme=theme, height=900) as opened:
                for name, path in views.items():
                    page = opened.go(path)
                    page.wait_for_timeout(SECONDS_OF_A_VIEW * 1000)
                    page.screenshot(path=folder / f"{name}-{theme}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS_OF_LIFE)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures(arguments.folder, arguments.seconds)


if __name__ == "__main__":
    main()
