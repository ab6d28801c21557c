"""A server that requires keys, with a key of each role and jobs of two users who share nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
from msgspec.structs import replace

from adapters.settings import Settings
from domain.decisions.answers import Claimed, Submitted
from domain.language.bodies import body_of
from domain.language.commands import (
    CancelJob,
    ClaimJobs,
    Command,
    CompleteJob,
    FailJob,
    SubmitJob,
)
from domain.language.events import Role
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from domain.language.moments import later
from tests.support.clock import NOON, ManualClock
from tests.support.core import execute_now
from tests.support.keys import by, create_key, revoke_key, rotate_key, secret
from tests.support.server import AppServer

ALICE, BOB = UserId("alice"), UserId("bob")
ECHO, OTHER = Kind("echo"), Kind("other")
WORKER = WorkerId("worker-1")
MARKER: Final = "M4RK3R"  # in everything of Bob's that a submitter of Alice's must not see
ABSENT: Final = JobId(999_999)  # of no job
ROLES: Final = {  # by the name of the key
    "alice": Role.SUBMITTER,
    "worker": Role.WORKER,
    "reader": Role.READER,
    "operator": Role.OPERATOR,
    "admin": Role.ADMIN,
}


def absent_as(job_id: int, absent: httpx.Response) -> tuple[int, str]:
    """Return the answer for `ABSENT` as it would be for another job that does not exist.

    Not the other way around: the digits of a low id stand elsewhere in an answer, too.
    """
    return absent.status_code, absent.text.replace(str(ABSENT), str(job_id))


class KeyedServer:
    """A server, and the jobs that it has."""

    def __init__(self, server: AppServer, clock: ManualClock) -> None:
        self.server = server
        self.clock = clock
        self.fairlog = server.fairlog
        self.clients = {
            name: self.client(name) for name in [*ROLES, "bob", "other-worker", "victim"]
        }
        self.alices: list[JobId] = []
        self.bobs: list[JobId] = []

    def client(self, name: str | None, seed: str | None = None) -> httpx.Client:
        """Return a client that sends the secret of a key; None: without a key."""
        headers = {} if name is None else {"Authorization": f"Bearer {secret(seed or name)}"}
        return httpx.Client(base_url=self.server.url, headers=headers, timeout=30)

    def do(self, command: Command) -> Any:
        return execute_now(self.fairlog, command)

    def fill(self) -> None:
        """Create keys and jobs: of each user one done, one failed, one cancelled, and two waiting.

        Everything of Bob's, but his name, has the marker in it.
        """
        for name, role in ROLES.items():
            scope = {"users": (ALICE,)} if role is Role.SUBMITTER else {}
            self.do(create_key(name, role, **scope))
        self.do(create_key("bob", users=(BOB,)))
        self.do(create_key("other-worker", Role.WORKER))
        self.do(create_key("victim", Role.READER))
        self.do(create_key("expired", Role.ADMIN, expires_at=later(self.clock.now(), 1)))
        self.do(create_key("revoked", Role.ADMIN))
        self.do(revoke_key("revoked"))
        self.do(create_key("rotated", Role.ADMIN))
        self.do(rotate_key("rotated", "rotated again", 0.0))
        self.clock.advance(2)
        self.alices = self._jobs("alice", ALICE, ECHO, "plain")
        self.bobs = self._jobs("bob", BOB, OTHER, MARKER)

    def _jobs(self, key: str, user_id: UserId, kind: Kind, word: str) -> list[JobId]:
        ids = [
            self.submit(key, user_id, f"{word}-payload-{number}", kind, word) for number in range(5)
        ]
        claimed = self.do(by("worker", ClaimJobs(worker=WORKER, max_jobs=2, kinds=(kind,))))
        assert isinstance(claimed, Claimed)
        done, failed = claimed.jobs
        result = body_of(f"{word}-result", "result")
        error = body_of({"message": f"{word}-error"}, "error")
        self.do(by("worker", CompleteJob(job_id=done.id, attempt=1, result=result)))
        self.do(by("worker", FailJob(job_id=failed.id, attempt=1, error=error, may_retry=False)))
        self.do(by(key, CancelJob(job_id=ids[2])))
        return ids

    def submit(
        self, key: str, user_id: UserId, payload: object, kind: Kind = ECHO, word: str = ""
    ) -> JobId:
        command = SubmitJob(
            user_id=user_id,
            kind=kind,
            payload=body_of(payload, "payload"),
            idempotency_key=f"{word}-{payload}-key",
        )
        answer = self.do(by(key, command))
        assert isinstance(answer, Submitted)
        return answer.job.id


@contextmanager
def keyed_server(
    database_url: str, settings: Settings | None = None, *, ca_file: str | None = None
) -> Iterator[KeyedServer]:
    """Yield a server that has keys and jobs. `ca_file` is the authority of its certificate."""
    clock = ManualClock(NOON)
    chosen = replace(settings or Settings(), user_limit=1_000_000, global_limit=1_000_000)
    with AppServer(database_url, chosen, clock, ca_file=ca_file) as server:
        keyed = KeyedServer(server, clock)
        keyed.fill()
        yield keyed
        for client in keyed.clients.values():
            client.close()
