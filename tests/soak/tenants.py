"""The settings, API keys, plans, limits and schedules of a soak."""

from collections.abc import Collection
from typing import Any, Final

import httpx
from msgspec import Struct

SETTINGS: Final = {
    "user_limit": 60,
    "global_limit": 600,
    "window_seconds": 10,
    "lease_seconds": 8,
    # Short, so that ended jobs leave the database with an archive; clients give up long before.
    "idempotency_seconds": 300,
}
TENANTS: Final = ("acme", "bolt", "core", "dune")
USERS_PER_TENANT: Final = 8
HTTP_KINDS: Final = ("mail", "resize", "export")
HANDLED_KINDS: Final = ("measure", "order", "tick")
ORDER_USERS: Final = tuple(f"shop/{number}" for number in range(5))
HTTP_WORKER: Final = "http-"  # how the names of the workers begin that claim over HTTP
_SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "every-three": {"every_seconds": 3, "overlap": "skip"},
    "every-five": {"every_seconds": 5, "overlap": "allow_all"},
    "every-seven": {"every_seconds": 7, "overlap": "buffer_one"},
}
_PLANS: Final[dict[str, dict[str, Any]]] = {
    "free": {
        "limit": 30,
        "windows": [{"limit": 8, "seconds": 2}],
        "running": 2,
        "throttle": {"limit": 5, "seconds": 1},
    },
    "gold": {"limit": 100, "running": 10},
}


class Keys(Struct, frozen=True):
    """The secrets of the API keys."""

    root: str
    tenants: dict[str, str]  # by tenant, which is the key's name, too
    reader: str
    http_workers: str
    handlers: str


def kinds_of(worker: str) -> Collection[str]:
    """Return the kinds that a worker claims."""
    return HTTP_KINDS if worker.startswith(HTTP_WORKER) else HANDLED_KINDS


def header(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def set_up(url: str, root: str) -> Keys:
    """Make keys, plans, limits and schedules through a server; `root` is an admin's secret."""
    with httpx.Client(base_url=url, headers=header(root), timeout=30) as client:

        def key(name: str, role: str, **fields: Any) -> str:
            answer = client.post("/v1/keys", json={"name": name, "role": role, **fields})
            return str(answer.raise_for_status().json()["secret"])

        def put(path: str, body: dict[str, Any]) -> None:
            client.put(path, json=body).raise_for_status()

        for plan, limits in _PLANS.items():
            put(f"/v1/plans/{plan}", limits)
        for tenant in TENANTS:
            for number in range(USERS_PER_TENANT):
                if number % 3:
                    plan = "free" if number % 3 == 1 else "gold"
                    put(f"/v1/limits/{tenant}%2F{number}", {"plan": plan})
        put(f"/v1/limits/{TENANTS[0]}%2F0", {"running": 1, "throttle": {"limit": 3, "seconds": 1}})
        put("/v1/limits/shop%2F0", {"plan": "free"})
        put("/v1/kinds/export", {"running": 6, "throttle": {"limit": 10, "seconds": 1}})
        for name, timing in _SCHEDULES.items():
            put(f"/v1/schedules/{name}", _schedule(name, timing))
        return Keys(
            root=root,
            tenants={one: key(one, "submitter", user_prefix=f"{one}/") for one in TENANTS},
            reader=key("reader", "reader", any_user=True),
            http_workers=key("http-workers", "worker", any_user=True, kinds=HTTP_KINDS),
            handlers=key("handlers", "worker", any_user=True, kinds=HANDLED_KINDS),
        )


def pause_schedules(client: httpx.Client) -> None:
    """Let no time be due any more, so that the line can drain."""
    for name, timing in _SCHEDULES.items():
        body = {**_schedule(name, timing), "paused": True}
        client.put(f"/v1/schedules/{name}", json=body).raise_for_status()


def _schedule(name: str, timing: dict[str, Any]) -> dict[str, Any]:
    return {"user_id": f"cron/{name}", "kind": "tick", "payload": {"of": name}, **timing}
