import asyncio
import ssl
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from adapters.outgoing.address_rules import AddressRules
from adapters.outgoing.errors import AddressRefused, NoAnswer, Redirected, SendError
from adapters.outgoing.sender import BODY_BYTES_MAX, Resolve, Response, Sender
from tests.support.certificates import Certificates

pytestmark = pytest.mark.anyio

LOOPBACK = AddressRules.parsed("127.0.0.1")


class Receiver:
    """A server on loopback that answers each connection as `answer` says."""

    def __init__(self, answer: Callable[[Writer], Awaitable[None]]) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self.port = 0
        self.open: dict[asyncio.Task[None], Writer] = {}

    async def serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.open[task] = writer
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            body = await reader.readexactly(int(lengths[0].split(b":")[1]))
            self.requests.append(head + body)
            await self._answer(writer)
            await writer.drain()
        writer.close()

    async def end(self) -> None:
        for task, writer in self.open.items():
            task.cancel()
            writer.close()
        await asyncio.gather(*self.open, return_exceptions=True)
        for writer in self.open.values():
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


def raw(answer: bytes) -> Callable[[Writer], Awaitable[None]]:
    async def write(writer: Writer) -> None:
        writer.write(answer)

    return write


OK = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nok")


@asynccontextmanager
async def receiver(
    answer: Callable[[Writer], Awaitable[None]] = OK, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    found = Receiver(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        await found.end()


def resolver(*addresses: str) -> Resolve:
    def resolve(host: str, port: int) -> Sequence[str]:
        assert host
        assert port
        return addresses

    return resolve


async def sent(url: str, sender: Sender | None = None, seconds: float = 5.0) -> Response:
    chosen = sender or Sender(LOOPBACK)
    try:
        return await chosen.send(url, b"{}", {"Content-Type": "application/json"}, seconds)
    finally:
        chosen.close()


async def test_a_body_is_posted_and_the_answer_returned() -> None:
    async with receiver() as found:
        answer = await sent(f"http://127.0.0.1:{found.port}/path%20a?q=1#part")
    assert answer == Response(200, {"content-length": "2", "x-a": "1, 2"}, b"ok")
    [request] = found.requests
    assert request.startswith(b"POST /path%20a?q=1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{found.port}\r\n".encode() in request
    assert request.endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"]
)
async def test_nothing_is_sent_to_an_address_that_is_not_allowed(host: str) -> None:
    async with receiver() as found:
        with pytest.raises(AddressRefused):
            await sent(f"http://{host}:{found.port}/", Sender(AddressRules()))
        assert not found.requests


async def test_a_name_with_one_address_that_is_not_allowed_is_refused() -> None:
    async with receiver() as found:
        sender = Sender(LOOPBACK, resolve=resolver("127.0.0.1", "10.0.0.1"))
        with pytest.raises(AddressRefused):
            await sent(f"http://hooks.example:{found.port}/", sender)
        assert not found.requests


async def test_a_name_is_resolved_once_and_its_next_address_tried() -> None:
    looked_up = []

    def resolve(host: str, _: int) -> Sequence[str]:
        looked_up.append(host)
        # A second look-up would find another address, as a name that rebinds has.
        return ["::1", "127.0.0.1"] if len(looked_up) == 1 else ["10.0.0.1"]

    async with receiver() as found:  # nothing listens at ::1
        rules = AddressRules.parsed("127.0.0.0/8,::1")
        answer = await sent(f"http://hooks.example:{found.port}/", Sender(rules, resolve=resolve))
    assert answer.status == 200
    assert looked_up == ["hooks.example"]


async def test_tls_verifies_the_name_of_the_url_at_the_checked_address(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(files.cert, files.key)
    asked: list[str | None] = []
    served.sni_callback = lambda _, name, __: asked.append(name)
    trusted = ssl.create_default_context(cafile=files.ca)
    at_loopback = resolver("127.0.0.1")
    async with receiver(tls=served) as found:
        good = f"https://jobs.example:{found.port}/"
        answer = await sent(good, Sender(LOOPBACK, trusted=trusted, resolve=at_loopback))
        assert answer.status == 200
        assert asked == ["jobs.example"]
        for url, authorities in ((good, None), (good.replace("jobs", "other"), trusted)):
            with pytest.raises(NoAnswer, match="certificate is not valid"):
                await sent(url, Sender(LOOPBACK, trusted=authorities, resolve=at_loopback))
    assert len(found.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_that_says_so(status: int) -> None:
    async with receiver() as target:
        location = f"http://127.0.0.1:{target.port}/?token=secret"
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        async with receiver(raw(answer.encode())) as found:
            with pytest.raises(Redirected, match=f"answered {status}, a redirect") as failed:
                await sent(f"http://127.0.0.1:{found.port}/hook?token=secret")
        assert not target.requests
    assert "secret" not in str(failed.value)
    assert "/hook" not in str(failed.value)


async def test_an_answer_is_read_to_its_bound() -> None:
    async def endless(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with receiver(endless) as found:
        answer = await sent(f"http://127.0.0.1:{found.port}/")
    assert len(answer.body) == BODY_BYTES_MAX
    assert answer.is_cut


async def test_a_body_that_would_unfold_is_taken_as_it_is() -> None:
    headers = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n"
    async with receiver(raw(headers + b"\x1f\x8b\x08")) as found:
        answer = await sent(f"http://127.0.0.1:{found.port}/")
    assert answer.body == b"\x1f\x8b\x08"
    assert b"accept-encoding: identity" in found.requests[0].lower()


async def hang(_: Writer) -> None:
    await asyncio.sleep(60)


async def trickle(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def trickle_headers(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"a: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("answer", [hang, trickle, trickle_headers])
async def test_no_answer_outlasts_the_deadline(
    answer: Callable[[Writer], Awaitable[None]],
) -> None:
    async with receiver(answer) as found:
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswer, match=r"no complete answer within 0\.2 s"):
            await sent(f"http://127.0.0.1:{found.port}/", seconds=0.2)
        assert asyncio.get_running_loop().time() - began < 1.0


async def reset(writer: Writer) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(
    "answer",
    [
        reset,
        raw(b""),
        raw(b"SSH-2.0-OpenSSH\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ],
)
async def test_a_broken_answer_is_none(answer: Callable[[Writer], Awaitable[None]]) -> None:
    async with receiver(answer) as found:
        with pytest.raises(NoAnswer, match="broke off the connection"):
            await sent(f"http://127.0.0.1:{found.port}/hook?token=secret")


async def test_who_does_not_listen_or_resolve_cannot_be_reached() -> None:
    async with receiver() as found:
        port = found.port
    with pytest.raises(NoAnswer, match="cannot be reached"):
        await sent(f"http://127.0.0.1:{port}/")
    for host in ("no-such-name.invalid", "a" * 64 + ".example"):
        with pytest.raises(SendError, match=r"cannot be reached|cannot be read"):
            await sent(f"http://{host}/")


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as proxy, receiver() as found:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await sent(f"http://127.0.0.1:{found.port}/")
        assert (len(proxy.requests), len(found.requests)) == (0, 1)
