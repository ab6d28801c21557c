"""The configurations of proxies in deploy/, with the proxies themselves."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import NewDatabase
from tests.support.certificates import Certificates
from tests.support.clock import LONGEST_WINDOW
from tests.support.deployment import DEPLOY, tool
from tests.support.ports import free_port
from tests.support.server import FairlogServer, ending_with_us, submit
from tests.support.waiting import wait_until

HOST: Final = "jobs.example"


@pytest.fixture(scope="module")
def backend() -> str:
    """No database has a part in it."""
    return "sqlite"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase) -> Iterator[FairlogServer]:
    options = ["--trusted-proxy", "127.0.0.1", "--allowed-host", HOST]
    settings = {"window_seconds": LONGEST_WINDOW}
    with FairlogServer(new_database_url(), options=options, settings=settings) as server:
        yield server


def fitted(file: str, files: Certificates, server: FairlogServer) -> str:
    """Return a configuration with the names, files and port of the test."""
    return (
        (DEPLOY / file)
        .read_text()
        .replace("/etc/ssl/jobs.example.com.pem", files.cert)
        .replace("/etc/ssl/jobs.example.com.key", files.key)
        .replace("jobs.example.com", HOST)
        .replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        .replace("server:8000", f"127.0.0.1:{server.port}")
    )


@contextmanager
def nginx(folder: Path, servers: str) -> Iterator[None]:
    temporary = "".join(
        f"{what}_temp_path {folder}/{what};"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{servers}\n}}"
    )
    with running(tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")):
        yield


@contextmanager
def caddy(folder: Path, sites: str) -> Iterator[None]:
    (folder / "Caddyfile").write_text(
        f"{{\nadmin off\nauto_https disable_redirects\nstorage file_system {folder}\n}}\n{sites}"
    )
    with running(tool("caddy"), "run", "--config", str(folder / "Caddyfile")):
        yield


@contextmanager
def running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(
        [*ending_with_us(), *command],
        env=os.environ | {"FAIRLOG_HOST": HOST},  # as compose.yaml sets it
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def proxied(
    name: str, folder: Path, files: Certificates, server: FairlogServer
) -> Iterator[httpx.Client]:
    """Start a proxy, and yield a client that asks it for the server's host name over TLS."""
    port = free_port()
    nginx_tls = f"ssl_certificate {files.cert}; ssl_certificate_key {files.key};"
    caddy_tls = f"tls {files.cert} {files.key}"

    def file(of: str) -> str:
        return fitted(of, files, server)

    proxies = {
        "nginx": lambda: nginx(
            folder, file("nginx/fairlog.conf").replace("443 ssl", f"127.0.0.1:{port} ssl")
        ),
        "nginx below a path": lambda: nginx(
            folder,
            f"server {{ listen 127.0.0.1:{port} ssl; {nginx_tls}\n"
            f"{file('nginx/fairlog-below-a-path.conf')}\n}}",
        ),
        "caddy": lambda: caddy(
            folder, file("caddy/Caddyfile").replace(f"{HOST} {{", f"{HOST}:{port} {{", 1)
        ),
        "caddy below a path": lambda: caddy(
            folder, f"{HOST}:{port} {{\n{caddy_tls}\n{file('caddy/below-a-path.caddy')}\n}}"
        ),
        "caddy of compose": lambda: caddy(
            folder,
            file("caddy/compose.Caddyfile").replace("} {", f"}}:{port} {{\n{caddy_tls}", 1),
        ),
    }
    with (
        proxies[name](),
        httpx.Client(
            base_url=f"https://127.0.0.1:{port}{'/fairlog' if 'below' in name else ''}",
            headers={"Host": f"{HOST}:{port}"},
            verify=files.trust(),
            timeout=30,
        ) as client,
    ):
        wait_until(lambda: is_listening(port), "the proxy listens")
        yield client


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "name", ["nginx", "nginx below a path", "caddy", "caddy below a path", "caddy of compose"]
)
def test_a_configuration_works(
    name: str, tmp_path: Path, files: Certificates, server: FairlogServer
) -> None:
    prefix = "/fairlog" if "below" in name else ""
    with proxied(name, tmp_path, files, server) as client:
        extensions = {"sni_hostname": HOST}
        # Links and the demand for TLS are those of the client's side.
        forged = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Proto": "http"}
        answer = client.post(
            "/v1/jobs",
            json={"user_id": f"{name}//b", "kind": "echo", "payload": name},
            headers=forged,
            extensions=extensions,
        )
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        assert answer.headers["Location"] == f"{prefix}/v1/jobs/{job_id}"
        assert answer.headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]
        # A path arrives as it was sent.
        path = f"/v1/limits/{quote(name)}%2F%2Fb"
        limits = client.get(path, extensions=extensions).json()
        assert (limits["user_id"], limits["used"]) == (f"{name}//b", 1)
        # The pages and their files.
        page = client.get("/jobs", extensions=extensions).text
        files_of_page = re.findall(r'(?:href|src)="([^"]*/static/[^"]*)"', page)
        assert len(files_of_page) > 3
        for path in files_of_page:
            own = path.removeprefix(prefix)
            assert client.get(own, extensions=extensions).status_code == 200
        # A body larger than a proxy takes by default.
        batch = {"jobs": [{"user_id": "big", "payload": "x" * 1_000_000, "kind": "echo"}] * 4}
        sent = client.post("/v1/jobs/batch", json=batch, extensions=extensions)
        assert sent.status_code == 200, sent.text
        # Each event of a stream arrives when it is recorded.
        with client.stream("GET", "/v1/stream?user_id=streamed", extensions=extensions) as stream:
            lines = stream.iter_lines()
            submitted = submit(server.client, user_id="streamed", payload=name, kind="echo")
            found = next(line for line in lines if f'"job_id":{submitted["id"]}' in line)
            assert found.startswith("data:")


def test_another_host_name_is_refused_behind_a_proxy_too(
    tmp_path: Path, files: Certificates, server: FairlogServer
) -> None:
    with proxied("nginx", tmp_path, files, server) as client:
        assert client.get("/livez", headers={"Host": "evil.example"}).status_code == 421
