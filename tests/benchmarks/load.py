"""Load on a server by wrk: so many clients, each asking again as soon as it is answered."""

import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

_SCRIPT: Final = Path(__file__).with_name("submit.lua")
_TIMEOUT_SECONDS: Final = 30


class LoadFailed(Exception):
    """The load generator is missing or failed, or requests came to nothing."""


class Load(Struct, frozen=True):
    """Results that the clients saw. Requests without an answer at the end are not counted."""

    requests: int  # answered
    seconds: float
    p50_ms: float  # from request to answer
    p99_ms: float
    refused: int  # answered with a status of 400 or more
    failed: int  # without an answer

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def submissions(
    url: str,
    path: str,
    *,
    clients: int,
    seconds: int,
    users: int = 1000,
    may_refuse: bool = False,
    key: str | None = None,
) -> Load:
    """Submissions of `users` users in turn, none like another. wrk has one thread.
    `key` is the secret of an API key; None: without.

    Raises LoadFailed when a request is not answered, or refused unless it may be.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadFailed("wrk is missing: install it (on Debian: wrk)")
    made = subprocess.run(
        [
            wrk,
            "-t1",
            f"-c{clients}",
            f"-d{seconds}s",
            f"--timeout={_TIMEOUT_SECONDS}s",
            "-s",
            str(_SCRIPT),
            url,
            "--",
            path,
            str(users),
            secrets.token_hex(4),
            key or "",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 2 * _TIMEOUT_SECONDS,
    )
    if made.returncode:
        raise LoadFailed(f"wrk ended with {made.returncode}\n{made.stdout}\n{made.stderr}")
    load = msgspec.json.decode(made.stdout.splitlines()[-1], type=Load)
    if load.failed or (load.refused and not may_refuse):
        raise LoadFailed(f"{load.failed} requests had no answer, {load.refused} were refused")
    return load
