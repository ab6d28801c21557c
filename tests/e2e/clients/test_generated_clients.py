"""Clients that are generated from /schema, in Python and in TypeScript, run a job each."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.clock import LONGEST_WINDOW
from tests.support.repository import ROOT
from tests.support.server import FairlogServer

MODULES: Final = ROOT / ".examples" / "node_modules"  # `make .examples` installs them
DOCUMENT: Final = "openapi.json"
# One submission in the longest window there is: the second is refused.
SETTINGS: Final = {"user_limit": 1, "window_seconds": LONGEST_WINDOW}

# What a client sees is the same on each database.
pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

PYTHON: Final = """
import sys
from fairlog_api import AuthenticatedClient
from fairlog_api.api.jobs import get_job, submit_job
from fairlog_api.models import JobView, ProblemDetails, State, Submission

with AuthenticatedClient(base_url=sys.argv[1], token="fl_none") as client:
    body = Submission(user_id="ada", kind="echo", payload={"a": [1, None]})
    job = submit_job.sync(client=client, body=body)
    assert isinstance(job, JobView), job
    done = get_job.sync(job.id, client=client, wait_seconds=20.0)
    assert isinstance(done, JobView), done
    assert done.state is State.DONE, done
    body.payload = 2
    refused = submit_job.sync_detailed(client=client, body=body)
    assert isinstance(refused.parsed, ProblemDetails), refused
    print(done.result, refused.parsed.status, refused.parsed.scope)
"""

TYPESCRIPT: Final = """
import { client } from "./fairlog/client.gen.js";
import { getJob, submitJob, type JobView, type ProblemDetails } from "./fairlog/index.js";

client.setConfig({ baseUrl: process.argv[2]! });
const body = { user_id: "ada", kind: "echo", payload: { a: [1, null] } };
const submitted = await submitJob({ body, throwOnError: true });
const path = { job_id: submitted.data.id };
const query = { wait_seconds: 20 };
const done: JobView = (await getJob({ path, query, throwOnError: true })).data;
const refused = await submitJob({ body: { ...body, payload: 2 } });
const problem: ProblemDetails = refused.error!;
console.log(JSON.stringify(done.result), done.state, problem.status, problem.scope);
"""

CONFIG: Final = f"""
export default {{
  input: "{DOCUMENT}",
  output: {{ path: "fairlog", module: {{ extension: ".js" }}, importFileExtension: ".js" }},
}};
"""

TSCONFIG: Final = {
    "compilerOptions": {
        "strict": True,
        "module": "nodenext",
        "target": "es2022",
        "lib": ["es2023", "dom", "dom.iterable"],
        "types": ["node"],
        "outDir": "out",
    },
    "include": ["program.ts", "fairlog"],
}


@pytest.fixture
def server(database_url: str) -> Iterator[FairlogServer]:
    with FairlogServer(database_url, workers=2, settings=SETTINGS) as server:
        yield server


@pytest.fixture
def document(server: FairlogServer, tmp_path: Path) -> Path:
    """The document, as a generator downloads it."""
    file = tmp_path / DOCUMENT
    file.write_bytes(server.client.get("/schema/openapi.json").raise_for_status().content)
    return file


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """Return what a program prints on both streams; it has to succeed."""
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def program(name: str) -> Path:
    return Path(sys.executable).parent / name


def test_a_generated_python_client_runs_a_job(
    server: FairlogServer, document: Path, tmp_path: Path
) -> None:
    command: list[str | Path] = [program("openapi-python-client"), "generate", "--path", document]
    command += ["--meta", "none", "--output-path", "fairlog_api", "--fail-on-warning"]
    path = os.pathsep.join([str(program("")), os.environ["PATH"]])
    printed = run(command, tmp_path, PATH=path)  # it formats with ruff
    assert "warning" not in printed.lower()
    (tmp_path / "program.py").write_text(PYTHON)
    # The types of the program that uses it; the generator's own code is not as strict.
    run([program("mypy"), "--strict", "--follow-imports=silent", "program.py"], tmp_path)
    printed = run([sys.executable, "program.py", server.url], tmp_path, PYTHONPATH=str(tmp_path))
    assert printed == "{'a': [1, None]} 429 user\n"


@pytest.mark.usefixtures("document")
def test_a_generated_typescript_client_runs_a_job(server: FairlogServer, tmp_path: Path) -> None:
    assert MODULES.exists(), "Run `make .examples` first."
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    (tmp_path / "program.ts").write_text(TYPESCRIPT)
    (tmp_path / "openapi-ts.config.mjs").write_text(CONFIG)
    generator = MODULES / "@hey-api" / "openapi-ts" / "bin" / "run.js"
    printed = run(["node", generator], tmp_path)
    assert "warn" not in printed.lower()
    run(["node", MODULES / "typescript" / "bin" / "tsc"], tmp_path)
    printed = run(["node", "out/program.js", server.url], tmp_path)
    assert printed == '{"a":[1,null]} done 429 user\n'
