"""`python -m tests.benchmarks.serve_with_noop whole|bare serve …`: `fairlog serve` with a no-op.

The no-op reads what a submission has and answers with the same type and status. Its
application is made by `create_app` and run by `run_server`, as in production; with `bare` it is an
application without anything of ours (no middleware, error handlers or request class), which is what
Litestar alone can do.
"""

import sys
from typing import Any, Final
from unittest.mock import patch

from litestar import Litestar, post
from litestar.di import Provide
from litestar.params import JSONBody
from litestar.status_codes import HTTP_202_ACCEPTED
from msgspec import Raw

from domain.access.rights import Right
from domain.jobs.job import State
from domain.language.identifiers import JobId, Kind, UserId
from domain.language.moments import from_micros
from entrypoints.cli import main
from entrypoints.http import access
from entrypoints.http.health import readyz
from entrypoints.http.requests import Submission
from entrypoints.processes import server
from entrypoints.processes.app import create_app
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import JobView
from tests.benchmarks.serving import NOOP_PATH

_THEN: Final = from_micros(1_700_000_000_000_000)
_JOB: Final = JobView(
    id=JobId(1_000_000),
    user_id=UserId("user-1"),
    kind=Kind("echo"),
    payload=Raw(b'{"image":"1-1000000","width":640}'),
    state=State.QUEUED,
    attempt=0,
    starts=0,
    failures=0,
    max_attempts=3,
    priority=0,
    idempotency_key="0" * 64,
    is_duplicate=False,
    run_at=None,
    expires_at=None,
    timeout_seconds=None,
    worker=None,
    lease_expires_at=None,
    submitted_at=_THEN,
    started_at=None,
    begun_at=None,
    finished_at=None,
    updated_at=_THEN,
)


@post(NOOP_PATH, status_code=HTTP_202_ACCEPTED)
async def noop(data: JSONBody[Submission]) -> JobView:  # noqa: ARG001 (as a submission's)
    return _JOB


class _BareSubmission(Submission):
    """The same for Litestar alone, which reads JSON into Python's own values before it looks for
    the fields: it has no bytes of the payload to keep.
    """

    payload: Any


@post(NOOP_PATH, status_code=HTTP_202_ACCEPTED)
async def bare_noop(data: JSONBody[_BareSubmission]) -> JobView:  # noqa: ARG001
    return _JOB


def _bare_app(fairlog: Fairlog, **_: object) -> Litestar:
    return Litestar(
        [bare_noop, readyz],
        dependencies={"fairlog": Provide(lambda: fairlog, sync_to_thread=False)},
        openapi_config=None,
        logging_config=None,
    )


def _serve(mode: str) -> None:

    def with_noop(fairlog: Fairlog, **options: Any) -> Litestar:
        app = create_app(fairlog, **options)
        app.register(noop)
        return app

    rules = {**access.RULES, ("POST", NOOP_PATH): frozenset[Right]()}
    with (
        patch.object(access, "RULES", rules),
        patch.object(server, "create_app", _bare_app if mode == "bare" else with_noop),
    ):
        main()


if __name__ == "__main__":
    _serve(sys.argv.pop(1))
