"""HTTPS: a server with a certificate, and what its clients trust."""

import contextlib
import logging
import random
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapters.settings import Settings, SettingsError
from entrypoints.runtime.tls import server_tls, trusted_by
from tests.conftest import NewDatabase
from tests.integration.http.test_connections import connections, is_closed
from tests.support.certificates import Certificates
from tests.support.server import AppServer, FairlogServer, audit, submit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

CONNECTIONS_MAX = 12


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """No database has a part in it."""
    return str(request.param)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase, files: Certificates) -> Iterator[AppServer]:
    settings = Settings(
        tls_cert=files.cert,
        tls_key=files.key,
        max_connections=CONNECTIONS_MAX,
        request_seconds=1,
        bodies_mib=16,
    )
    with AppServer(new_database_url(), settings, ca_file=files.ca) as server:
        yield server


def test_a_server_with_a_certificate_speaks_https(server: AppServer) -> None:
    job = submit(server.client, payload="x" * 300_000)
    listed = server.client.get(f"/v1/jobs/{job['id']}").json()
    assert listed["payload"] == "x" * 300_000
    assert server.client.get("/").status_code == 200


def test_many_requests_share_a_connection_and_its_first_bytes_may_come_with_the_handshake(
    server: AppServer, files: Certificates
) -> None:
    context = ssl.create_default_context(cafile=files.ca)
    for _ in range(20):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(65_536))
            client.do_handshake()
            # The end of the handshake and two requests in one segment.
            client.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            connection.sendall(outgoing.read())
            received = b""
            while received.count(b"\r\n\r\nok") < 2:
                incoming.write(connection.recv(65_536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while True:
                        received += client.read(65_536)


def test_a_client_that_does_not_trust_the_authority_sends_nothing(server: AppServer) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(server.url + "/livez", trust_env=False)


def test_old_versions_of_tls_are_refused(files: Certificates) -> None:
    loaded = server_tls(Settings(tls_cert=files.cert, tls_key=files.key))
    assert loaded is not None
    assert loaded.minimum_version == ssl.TLSVersion.TLSv1_2


def test_http_to_the_port_is_cut_off_and_disturbs_nobody(server: AppServer) -> None:
    with connections(server, 3, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as opened:
        assert all(is_closed(one) for one in opened)
    assert server.client.get("/livez").text == "ok"


def test_connections_without_a_handshake_are_closed_in_time_and_keep_nobody_out(
    server: AppServer, files: Certificates
) -> None:
    with connections(server, 3 * CONNECTIONS_MAX) as opened:
        with httpx.Client(
            base_url=server.url, verify=trusted_by(files.ca) or True, timeout=30
        ) as client:
            assert client.get("/livez").text == "ok"
        assert all(is_closed(one) for one in opened)


def test_broken_handshakes_leave_no_connection_and_no_log_line(
    server: AppServer, files: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=files.ca).wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    chance = random.Random(7)
    for number in range(200):
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            if number % 2:  # a reset in place of an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(ConnectionError):
                connection.sendall(
                    chance.choice(
                        (hello, hello[: chance.randrange(len(hello))], chance.randbytes(400))
                    )
                )
    for _ in range(CONNECTIONS_MAX + 1):
        with httpx.Client(
            base_url=server.url, verify=trusted_by(files.ca) or True, timeout=30
        ) as other:
            assert other.get("/livez").text == "ok"
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_an_answer_to_a_malformed_request_arrives(server: AppServer, files: Certificates) -> None:
    context = ssl.create_default_context(cafile=files.ca)
    with (
        socket.create_connection(("127.0.0.1", server.port), 10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"no request at all\r\n\r\n")
        answer = b""
        while part := secured.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nstrict-transport-security: max-age=31536000\r\n" in answer


def test_every_answer_demands_https_from_then_on(server: AppServer) -> None:
    for path in ("/", "/livez", "/nowhere", "/v1/jobs/1"):
        fields = server.client.get(path).headers.get_list("Strict-Transport-Security")
        assert fields == ["max-age=31536000"]


def test_a_page_over_plain_http_may_not_act_on_a_server_with_https(server: AppServer) -> None:
    own = f"127.0.0.1:{server.port}"
    body = {"user_id": "ada", "kind": "echo", "payload": "from a page"}
    for origin, status in ((f"http://{own}", 403), (f"https://{own}", 202)):
        answer = server.client.post("/v1/jobs", json=body, headers={"Origin": origin})
        assert answer.status_code == status


def test_a_worker_trusts_the_authority_that_it_is_given(
    new_database_url: NewDatabase, files: Certificates
) -> None:
    settings = {"tls_cert": files.cert, "tls_key": files.key}
    with FairlogServer(new_database_url(), settings=settings, ca_file=files.ca) as server:
        job = submit(server.client, payload={"over": "TLS"}, kind="echo")
        with WorkerProcess(server.url) as distrusting:
            wait_until(lambda: "--ca-file" in distrusting.output, "the worker says what it needs")
            assert distrusting.is_alive
        with WorkerProcess(server.url, "--ca-file", files.ca) as worker:
            path = f"/v1/jobs/{job['id']}"
            wait_until(lambda: server.client.get(path).json()["state"] == "done", "the job is done")
            worker.terminate()
        assert "JobCompleted" in {event["type"] for event in audit(server.client)}
        assert f"https://127.0.0.1:{server.port}" in server.output


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert", None, "--tls-cert and --tls-key"),
        (None, "key", "--tls-cert and --tls-key"),
        ("missing", "key", "cannot be read (No such file or directory). Check --tls-cert"),
        ("cert", "missing", "cannot be read (No such file or directory). Check --tls-key"),
        ("cert", "folder", "cannot be read (Is a directory). Check --tls-key"),
        ("cert", "other", "is not that of the first certificate"),
        ("ca", "key", "is not that of the first certificate"),
        ("key", "cert", "are not a PEM certificate"),
        ("cert", "empty", "are not a PEM certificate"),
        ("cert", "key_with_passphrase", "has a passphrase"),
    ],
)
def test_files_that_cannot_be_used_are_named_in_one_sentence(
    files: Certificates, tmp_path: Path, cert: str | None, key: str | None, words: str
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    paths = {
        "cert": files.cert,
        "key": files.key,
        "ca": files.ca,
        "key_with_passphrase": files.key_with_passphrase,
        "missing": str(tmp_path / "missing.pem"),
        "folder": str(tmp_path),
        "other": Certificates(tmp_path).key,
        "empty": str(empty),
        None: None,
    }
    with pytest.raises(SettingsError) as refused:
        server_tls(Settings(tls_cert=paths[cert], tls_key=paths[key]))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "no certificate", None])
def test_a_file_without_authorities_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match="--ca-file"):
        trusted_by(str(file))


def test_the_authorities_of_the_environment_are_trusted(
    files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", files.ca)
    assert isinstance(trusted_by(None), ssl.SSLContext)
    monkeypatch.setenv("SSL_CERT_FILE", files.ca + ".missing")
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        trusted_by(None)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert trusted_by(None) is None
