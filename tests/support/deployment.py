"""Files of deploy/ and the tools that check them, and programs started as these files say."""

import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.support.repository import ROOT
from tests.support.server import STOP_SECONDS_MAX, ending_with_us, without_settings
from tests.support.waiting import wait_until

DEPLOY: Final = ROOT / "deploy"
FAIRLOG: Final = Path(sys.executable).with_name("fairlog")
GRACE_LEFT_SECONDS: Final = 10.0  # for what follows a grace period: the last reports, the end
_PLACES: Final = (ROOT / ".deploy-tools", ROOT / ".proxies", FAIRLOG.parent)


def tool(name: str) -> str:
    """Return a program that `make test` has fetched, or one that is installed."""
    places = [*map(str, _PLACES), "/usr/sbin", "/usr/bin", "/usr/local/bin"]
    found = shutil.which(name, path=":".join(places))
    assert found is not None, f"there is no {name}: run `make .deploy-tools .proxies`"
    return found


def checked(
    name: str,
    *arguments: str,
    folder: Path = DEPLOY,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a tool, which must find nothing wrong; return what it printed."""
    done = subprocess.run(
        [tool(name), *arguments],
        input=stdin,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def unit_options(*files: Path) -> dict[str, list[str]]:
    """Return the values of each option of a systemd unit and its drop-ins, in order. An empty value
    discards those before it.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        for line in file.read_text().splitlines():
            option, separator, value = line.partition("=")
            if not separator or line.startswith("#"):
                continue
            if value:
                found[option].append(value)
            else:
                found[option].clear()
    return found


def variables(file: Path) -> dict[str, str]:
    """Return the variables of an environment file."""
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Started:
    """A program that was started as a file of deploy/ says."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_ready(self, url: str, host: str) -> None:
        """Wait until the server is ready for requests to a host name."""

        def is_ready() -> bool:
            assert self._process.poll() is None, self.output
            try:
                return httpx.get(f"{url}/readyz", headers={"Host": host}).is_success
            except httpx.TransportError:
                return False

        wait_until(is_ready, "the server is ready", 60)

    def stop(self) -> None:
        """Send SIGTERM to the main process alone; it must end by itself and without an error."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(STOP_SECONDS_MAX) == 0, self.output


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, name: str
) -> Iterator[Started]:
    """Run a command with no FAIRLOG_… variables but those given."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*ending_with_us(), *command],
            cwd=folder,
            env={**without_settings(os.environ), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Started(process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def key_created(database_url: str, name: str, role: str) -> str:
    """Create a key as the documents say, and return its secret."""
    made = subprocess.run(
        [FAIRLOG, "keys", "create", "--name", name, "--role", role],
        env=without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


def bearer(secret: str, host: str) -> dict[str, str]:
    """Return the header fields of a request with a key, to a host name."""
    return {"Authorization": f"Bearer {secret}", "Host": host}


def result_of(url: str, headers: Mapping[str, str], kind: str, payload: object) -> object:
    """Submit a job, and return its result once it is done."""
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        job = {"user_id": "alice", "kind": kind, "payload": payload}
        answer = client.post("/v1/jobs", json=job)
        assert answer.status_code == 202, answer.text
        path = f"/v1/jobs/{answer.json()['id']}"
        wait_until(lambda: client.get(path).json()["state"] == "done", "the job is done")
        return client.get(path).json()["result"]
