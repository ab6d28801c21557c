"""`python -m tests.screenshots [--seconds N]`: pictures of each view, of a living system.

They are written to docs/screenshots. A server serves three customers of different size for so many
seconds (default 240), so that the charts have something to show. Meanwhile webhooks fail, the kind
`report` is paused, one customer has a plan, schedules submit jobs, one of two endpoints of
callbacks answers, and one of two workers has died.
"""

import argparse
import random
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx

from entrypoints.service.worker_polls import LATELY_SECONDS
from tests.support.browser import chromium, window
from tests.support.endpoint import Answer, Endpoint, secret_key_file
from tests.support.repository import ROOT
from tests.support.server import FairlogServer
from tests.support.workers import WorkerProcess

FOLDER: Final = ROOT / "docs" / "screenshots"
SECONDS_OF_LIFE: Final = 240.0
SECONDS_OF_A_VIEW: Final = 1.5  # for its charts to be drawn
WIDE: Final = 1360
NARROW: Final = 420
CUSTOMERS: Final = {"acme": 0.7, "globex": 0.22, "initech": 0.08}  # by their share of submissions
LIMITS: Final = {
    "plans/gold": {"weight": 2, "throttle": {"limit": 25, "seconds": 1}},
    "limits/acme": {"plan": "gold"},
    "limits/globex": {"limit": 200},
    "limits/initech": {"running": 2},
    "kinds/report": {"paused": True},
    "resources/hooks:*": {"throttle": {"limit": 300, "seconds": 60}},
}
SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "nightly-export": {"cron": "30 3 * * *", "time_zone": "Europe/Berlin", "user_id": "acme"},
    "month-end": {"cron": "0 6 1 * *", "user_id": "globex", "paused": True},
    "sync": {"every_seconds": 30, "user_id": "initech", "overlap": "buffer_one"},
    "prices": {"every_seconds": 60, "user_id": "globex", "jitter_seconds": 10},
}
KINDS: Final = ("thumbnail", "thumbnail", "webhook", "webhook", "export")
# Lists, of which the beginning is enough.
_LISTS: Final = frozenset({"jobs", "failed", "audit", "deliveries"})
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
    if random.random() < (0.9 if payload["host"].startswith("down.") else 0.05):
        raise ConnectionError(f"no answer from {payload['host']}")
    return {"status": 200}

def report(payload):
    return {"pages": 3}
"""


def live(url: str, stop: threading.Event) -> None:
    """Customers submit, each with a share of its own."""
    chance = random.Random(3)
    number = 0
    with httpx.Client(base_url=url) as client:
        while not stop.is_set():
            number += 1
            [user] = chance.choices(list(CUSTOMERS), list(CUSTOMERS.values()))
            kind = "report" if number % 50 == 0 else chance.choice(KINDS)
            host = f"{'down' if number % 6 == 0 else 'hooks'}.{user}.example"
            job: dict[str, Any] = {
                "payload": {"image": f"{number:05}", "host": host, "order": number}
            }
            if number % 400 == 0:
                job["run_at"] = "2100-01-01T00:00:00Z"
            if kind == "webhook":
                job |= {"max_attempts": 2, "resources": [f"hooks:{user}"]}
            client.post("/v1/jobs", json={"user_id": user, "kind": kind, **job})
            if number % 150 == 0:
                newest = client.get("/v1/jobs", params={"state": "queued", "limit": 1}).json()
                for queued in newest["jobs"]:
                    client.post(f"/v1/jobs/{queued['id']}/cancel")
            stop.wait(chance.expovariate(10 + 10 * (time.monotonic() // 40 % 2)))


def pictures(folder: Path, seconds_of_life: float) -> None:
    """Let a server live for a while, and write a picture of each view in each form."""
    with TemporaryDirectory() as directory:
        handlers = Path(directory) / "customers.py"
        handlers.write_text(HANDLERS)
        settings = {
            "handlers": handlers,
            "user_limit": 400,
            "lease_seconds": 10,
            "callback_key_file": secret_key_file(Path(directory)),
            "callback_allow": "127.0.0.1",
        }
        url = f"sqlite:///{directory}/fairlog.db"
        with (
            Endpoint(lambda _: Answer(204)) as receiver,
            FairlogServer(url, workers=3, settings=settings, is_fresh=True) as server,
            WorkerProcess(server.url, "--handlers", str(handlers)) as dying,
        ):
            for path, limits in LIMITS.items():
                server.client.put(f"/v1/{path}", json=limits).raise_for_status()
            for name, schedule in SCHEDULES.items():
                body = {"kind": "export", "payload": {"schedule": name}, **schedule}
                server.client.put(f"/v1/schedules/{name}", json=body).raise_for_status()
            told = {"url": receiver.url, "kinds": ["export"]}
            away = {"url": "https://crm.invalid/hooks", "kinds": ["export"], "users": ["initech"]}
            for name, endpoint in {"orders": told, "crm": away}.items():
                server.client.put(f"/v1/callbacks/{name}", json=endpoint).raise_for_status()
            stop = threading.Event()
            customers = threading.Thread(target=live, args=(server.url, stop))
            customers.start()
            try:
                time.sleep(max(0.0, seconds_of_life - 1.5 * LATELY_SECONDS))
                dying.kill()
                time.sleep(1.5 * LATELY_SECONDS)
                take(server, folder)
            finally:
                stop.set()
                customers.join()


def take(server: FairlogServer, folder: Path) -> None:
    failed = server.client.get("/v1/jobs", params={"state": "failed", "limit": 1}).json()
    views = {
        "overview": "/",
        "fairness": "/fairness",
        "limits": "/limits?user=acme",
        "jobs": "/jobs",
        "failed": "/jobs?state=failed&error=no+answer",
        "job": f"/jobs/{failed['jobs'][0]['id']}",
        "audit": "/audit",
        "schedules": "/schedules",
        "deliveries": "/jobs?kind=fairlog.callback",
    }
    forms = {"light": ("light", WIDE), "dark": ("dark", WIDE), "narrow": ("light", NARROW)}
    with chromium() as browser:
        for form, (theme, width) in forms.items():
            with window(browser, server.url, theme=theme, width=width, height=900) as opened:
                # The narrow window shows the beginning alone: a telephone has no more at once.
                for name, path in views.items():
                    page = opened.go(path)
                    page.wait_for_timeout(SECONDS_OF_A_VIEW * 1000)
                    is_whole = form != "narrow" and name not in _LISTS
                    page.screenshot(path=folder / f"{name}-{form}.png", full_page=is_whole)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS_OF_LIFE)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures(arguments.folder, arguments.seconds)


if __name__ == "__main__":
    main()
