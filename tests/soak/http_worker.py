"""A worker that claims over HTTP, in a process of its own that may be killed at any moment.

`python -m tests.soak.http_worker URL NAME SECRET KINDS SEED FILE` appends what it was answered to
the file, a line of JSON for each answer. It uses the standard library alone, so that it starts
quickly and knows nothing of the service.
"""

import http.client
import json
import random
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

_UNCLEAR: Final = frozenset({408, 421, 500, 502, 503, 504})
_REQUEST_SECONDS_MAX: Final = 15.0
_JOBS_MAX: Final = 10


def ask(url: str, secret: str, path: str, body: object) -> Any:
    """Send a request until it has a clear answer; return its JSON, or None if it is a refusal."""
    parts = urlsplit(url)
    pause = 0.05
    while True:
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_REQUEST_SECONDS_MAX
        )
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status not in _UNCLEAR:
                return json.loads(content) if answer.status == http.client.OK else None
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(pause)
        pause = min(pause * 2, 1.0)


def outcome_of(job: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    one: dict[str, Any] = {"id": job["id"], "attempt": job["attempt"]}
    if chance.random() < 0.05:
        return one | {"error": {"message": "soaked"}}
    return one | {"result": {"attempt": job["attempt"]}}


def main(url: str, name: str, secret: str, kinds: str, seed: str, file: str) -> None:
    chance = random.Random(seed)
    number = 0
    with Path(file).open("a") as answers:

        def keep(answered: dict[str, Any]) -> None:
            print(json.dumps(answered), file=answers, flush=True)

        while True:
            number += 1
            body = {
                "worker": name,
                "max": _JOBS_MAX,
                "claim_id": str(number),
                "kinds": kinds.split(","),
                "wait_seconds": 1,
            }
            claimed = ask(url, secret, "/v1/claims", body)
            jobs = [] if claimed is None else claimed["jobs"]
            keep({"started": [[job["id"], job["attempt"], name] for job in jobs]})
            if chance.random() < 0.02:
                continue  # it forgets them, and their leases end
            time.sleep(chance.choice([0.0, 0.01, 0.05, 0.3]))
            left = [outcome_of(job, chance) for job in jobs]
            while left:
                report = {"worker": name, "jobs": left}
                reported = ask(url, secret, "/v1/claims/complete", report)
                if reported is None:
                    break
                pairs = list(zip(left, reported["jobs"], strict=True))
                done = [
                    [sent["id"], sent["attempt"], "failed" if "error" in sent else "done"]
                    for sent, got in pairs
                    if got.get("status", 200) == http.client.OK
                ]
                keep({"outcomes": done})
                left = [sent for sent, got in pairs if got.get("status", 200) in _UNCLEAR]


if __name__ == "__main__":
    main(*sys.argv[1:])
