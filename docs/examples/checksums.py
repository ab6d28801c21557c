# ruff: noqa: ANN401 (a script outside any package, which prints to its user)
"""Checksums of files as jobs: a handlers module, and a script that submits jobs for it.

As a handlers module it adds one kind of job: `{"path": "json/decoder.py"}`, a path below the root,
becomes `{"path", "sha256", "bytes", "lines"}`. The root is the environment variable CHECKSUMS_ROOT,
by default the directory of Python's standard library.

As a script it submits every .py file below the root for alice, then 20 files each for bob and
carol, waits for the results and checks them. Run these commands in a terminal each, the last one
when the script asks for it:

    FAIRLOG_USER_LIMIT=10000 FAIRLOG_GLOBAL_LIMIT=20000 fairlog serve --workers 0
    python docs/examples/checksums.py
    fairlog worker --server http://127.0.0.1:8000 --handlers docs/examples/checksums.py

The script can be repeated: for a day, the same submission means the same job.
"""

import argparse
import hashlib
import os
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

_PIECE_BYTES = 1024 * 1024
_BATCH_JOBS = 1000  # the maximum of one request
_OTHERS_FILES = 20
_NOT_PYTHONS_OWN = {"site-packages", "dist-packages", "__pycache__"}


def checksum(payload: dict[str, str], job: Any) -> dict[str, Any] | None:
    """Read one file. As the only public function, this is the only kind that is added."""
    path = _below(_root(), payload["path"])
    digest = hashlib.sha256()
    size = lines = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            if job.cancelled:
                return None  # the result would be discarded
            digest.update(piece)
            size += len(piece)
            lines += piece.count(b"\n")
    return {"path": payload["path"], "sha256": digest.hexdigest(), "bytes": size, "lines": lines}


def _root() -> Path:
    return Path(os.environ.get("CHECKSUMS_ROOT") or sysconfig.get_paths()["stdlib"])


def _below(root: Path, path: str) -> Path:
    """Refuse a path that leaves the root, by `..`, as an absolute path or by a symbolic link."""
    root = root.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise PermissionError(f"{path!r} leads out of the root")
    if not target.is_file():
        raise FileNotFoundError(f"{path!r} is no file below the root")
    return target


def _main() -> int:
    parser = argparse.ArgumentParser(description="Submit files to Fairlog and check the results.")
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--root", type=Path, default=_root(), help="default: %(default)s")
    parser.add_argument("--submit-only", action="store_true", help="do not wait for the results")
    options = parser.parse_args()
    with httpx.Client(base_url=options.server, timeout=60) as server:
        try:
            jobs = _submit(server, list(_submissions(options.root)))
            if options.submit_only:
                return 0
            print("Start a worker now, unless one is running:")
            print(f"    {_worker_command(options)}")
            starts = _wait(server, jobs)
            print(f"Served first: {' '.join(starts[:12])} …")
            turns = Counter(starts[: 3 * _OTHERS_FILES])
            print(f"Of the first {turns.total()} turns: {dict(turns)}")
            return _check(server, options.root, jobs)
        except httpx.TransportError as error:
            print(f"{options.server} does not answer: {error}", file=sys.stderr)
        except httpx.HTTPStatusError as error:
            print(f"{options.server} refuses: {error.response.text}", file=sys.stderr)
    return 1


def _submissions(root: Path) -> Iterator[dict[str, Any]]:
    """Yield all jobs of alice first; bob and carol are served in turn with her all the same."""
    files = list(_python_files(root))
    others = files[:_OTHERS_FILES], files[-_OTHERS_FILES:]
    for user, paths in zip(("alice", "bob", "carol"), (files, *others), strict=True):
        for path in paths:
            yield {"user_id": user, "kind": "checksum", "payload": {"path": path}}


def _python_files(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _NOT_PYTHONS_OWN.isdisjoint(relative.parts):
            try:
                _below(root, str(relative))
            except OSError:  # a directory of that name, or a link that leads out
                continue
            yield relative.as_posix()


def _submit(
    server: httpx.Client, submissions: Sequence[dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Submit jobs, and return the submissions by the ids of their jobs."""
    jobs = {}
    for start in range(0, len(submissions), _BATCH_JOBS):
        batch = submissions[start : start + _BATCH_JOBS]
        answer = server.post("/v1/jobs/batch", json={"jobs": batch})
        outcomes = answer.raise_for_status().json()["jobs"]
        for submission, outcome in zip(batch, outcomes, strict=True):
            if "job" not in outcome:
                sys.exit(
                    f"{outcome['problem']['detail']}\n"
                    f"This example submits {len(submissions)} jobs at once: start the server with\n"
                    "    FAIRLOG_USER_LIMIT=10000 FAIRLOG_GLOBAL_LIMIT=20000"
                    " fairlog serve --workers 0"
                )
            jobs[outcome["job"]["id"]] = submission
        print(f"\rSubmitted {len(jobs)} of {len(submissions)} jobs", end="", flush=True)
    print()
    return jobs


def _worker_command(options: argparse.Namespace) -> str:
    root = "" if options.root == _root() else f"CHECKSUMS_ROOT={options.root} "
    return f"{root}fairlog worker --server {options.server} --handlers {sys.argv[0]}"


def _wait(server: httpx.Client, jobs: dict[int, dict[str, Any]]) -> list[str]:
    """Follow the log until all jobs have ended, and return the users of started jobs in order.

    A job's id is a position in the log, and all its later events come after it.
    """
    after = min(jobs)
    left = set(jobs)
    starts = []
    while left:
        page = server.get("/v1/audit", params={"after": after, "limit": 1000})
        events = page.raise_for_status().json()["events"]
        for event in events:
            after = event["position"]
            if event["type"] == "JobStarted" and event["job_id"] in jobs:
                starts.append(event["user_id"])
            elif _ends_a_job(event):
                left.discard(event["job_id"])
        print(f"\rDone {len(jobs) - len(left)} of {len(jobs)} jobs", end="", flush=True)
        if not events:
            time.sleep(0.2)
    print()
    return starts


def _ends_a_job(event: dict[str, Any]) -> bool:
    match event["type"]:
        case "JobCompleted" | "JobCancelled":
            return True
        case "JobFailed":
            return event["data"].get("retry_at") is None
        case _:
            return False


def _check(server: httpx.Client, root: Path, jobs: dict[int, dict[str, Any]]) -> int:
    """Compare each result with a local one, and return the exit code."""
    found = {job["id"]: job for user in ("alice", "bob", "carol") for job in _jobs(server, user)}
    wrong = 0
    for job_id, submission in jobs.items():
        path = submission["payload"]["path"]
        data = (root / path).read_bytes()
        expected = {
            "path": path,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "lines": data.count(b"\n"),
        }
        job = found[job_id]
        if (job["state"], job["result"]) != ("done", expected):
            wrong += 1
            print(f"Job {job_id}, {path}: {job['state']}, {job['result'] or job['error']}")
    print(f"{len(jobs) - wrong} of {len(jobs)} results agree with hashlib.")
    return 1 if wrong else 0


def _jobs(server: httpx.Client, user: str) -> Iterator[dict[str, Any]]:
    params: dict[str, Any] = {"user_id": user, "limit": 1000, "include": "payload,result"}
    while True:
        page = server.get("/v1/jobs", params=params).raise_for_status().json()
        yield from page["jobs"]
        if page["next"] is None:
            return
        params["cursor"] = page["next"]


if __name__ == "__main__":
    sys.exit(_main())
