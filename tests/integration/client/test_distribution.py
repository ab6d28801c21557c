"""The client's wheel in an environment of its own: what it brings, and its README."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client_wheel import CLIENT, Environment, client_interpreter, new_environment
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, without_settings

PYRIGHT = ROOT / ".examples" / "node_modules" / "pyright" / "index.js"
NEEDED = {"anyio", "certifi", "exceptiongroup", "h11", "httpcore", "httpx", "idna", "msgspec"}
NEEDED_MAX = NEEDED | {"fairlog-client", "typing-extensions"}


@pytest.fixture(scope="module", params=[client_interpreter()], ids=str)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    return new_environment(tmp_path_factory.mktemp("environment"), request.param)


def first_example() -> str:
    [example, *_] = re.findall(
        r"```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL
    )
    assert isinstance(example, str)
    return example


def test_it_brings_httpx_and_msgspec_and_what_they_need_alone(environment: Environment) -> None:
    assert environment.distributions() <= NEEDED_MAX
    for name in ("domain", "adapters", "projections", "entrypoints", "sqlalchemy", "structlog"):
        found = environment.run("-c", f"import importlib.util as u; print(u.find_spec({name!r}))")
        assert found.stdout.strip() == "None", found


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_first_lines_of_its_readme_run_a_job_and_print_its_result(
    environment: Environment, database_url: str
) -> None:
    example = first_example()
    assert len(example.splitlines()) <= 10
    with FairlogServer(database_url, workers=1) as server:
        done = environment.run("-c", example, FAIRLOG_SERVER=server.url)
    assert done.stdout == "{'hello': 'world'}\n", done


def mypy(environment: Environment, folder: Path, file: str) -> str:
    return output_of(
        folder,
        *(sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file="),
        *("--python-executable", str(environment.python), "--cache-dir", str(folder / "cache")),
        file,
    )


def pyright(environment: Environment, folder: Path, file: str) -> str:
    assert PYRIGHT.exists(), "Run `make .examples` first."
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    return output_of(folder, "node", str(PYRIGHT), "--pythonpath", str(environment.python), file)


def output_of(folder: Path, *command: str) -> str:
    ran = subprocess.run(
        command,
        cwd=folder,
        env=without_settings(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout


@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_user_s_file_is_checked_strictly(
    environment: Environment, tmp_path: Path, check: Callable[[Environment, Path, str], str]
) -> None:
    (tmp_path / "right.py").write_text(_RIGHT)
    (tmp_path / "wrong.py").write_text(_WRONG)
    checked = check(environment, tmp_path, "right.py")
    assert re.search("0 errors|no issues found", checked), checked
    checked = check(environment, tmp_path, "wrong.py")
    found = {int(number) for number in re.findall(r"wrong\.py:(\d+).* error: ", checked)}
    wanted = {
        number
        for number, line in enumerate(_WRONG.splitlines(), start=1)
        if line.endswith("# wrong")
    }
    assert found == wanted, checked


_RIGHT = """
import asyncio
from collections.abc import Iterator

from fairlog_client import (
    AsyncFairlog, AsyncJob, Event, Fairlog, FairlogError, Job, JobFailed, Jobs, RateLimited,
    Submission, UserLimits,
)

jobs = Jobs()


@jobs.task(kind="thumbnail", max_attempts=5, timeout=60)
def thumbnail(path: str, size: int = 200) -> str:
    return path


def main() -> None:
    with Fairlog("http://localhost", key=None, timeout=5.0) as fairlog:
        job: Job = fairlog.submit(user_id="a", kind="echo", payload={"x": 1}, priority=3)
        print(job.result(timeout=1), job.id + 1, job.state == "done")
        limits: UserLimits = fairlog.limits("a")
        print(limits.used + limits.global_.used)
        listed: Iterator[Job] = fairlog.jobs(user_id="a", state="failed")
        print([one.id for one in listed])
        for outcome in fairlog.submit_many([Submission(user_id="a", kind="echo")]):
            if isinstance(outcome, FairlogError):
                raise outcome
            print(outcome.id)
        for event in fairlog.stream(after=0):
            print(event.position, event.data["kind"])
    try:
        thumbnail.submit(user="a", path="/x", size=3).result()
    except RateLimited as error:
        print(error.retry_after + 1.0)
    except JobFailed as error:
        print(error.message.upper())
    text: str = thumbnail("/x")
    print(text)


async def async_main() -> None:
    async with AsyncFairlog() as fairlog:
        job: AsyncJob = await fairlog.submit(user_id="a", kind="echo")
        print(await job.result(timeout=1))
        async for one in fairlog.jobs():
            print(one.id)
        events: list[Event] = [event async for event in fairlog.audit(job_id=job.id)]
        print(events)
        await thumbnail.submit_async(fairlog, "a", path="/x")


asyncio.run(async_main())
"""

_WRONG = """
from fairlog_client import AsyncFairlog, Fairlog, Jobs

jobs = Jobs()


@jobs.task()
def thumbnail(path: str, size: int = 200) -> str:
    return path


thumbnail.submit(user="a", pat="/x")  # wrong
thumbnail.submit(user="a", path=3)  # wrong
fairlog = Fairlog()
fairlog.submit(user="a", kind="echo")  # wrong
fairlog.submit(user_id="a", kind="echo").result(seconds=3)  # wrong
fairlog.jobs(state="finished")  # wrong


async def main() -> None:
    job = AsyncFairlog().submit(user_id="a", kind="echo")
    print(job.id)  # wrong
"""
