"""Sends HTTP POSTs to addresses that others give: within their rules, a deadline and a bound.

A name is resolved once. Each address that it has is checked, and the connection is made to a
checked address, so that a name which resolves to another address a moment later changes nothing.
TLS verifies the name of the URL. Connections are not kept: the next request checks anew, and a
receiver that closes idle connections fails none.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpcore
import httpx
from msgspec import Struct

from adapters.outgoing.address_rules import AddressRules, origin_of, parsed_url
from adapters.outgoing.errors import NoAnswer, Redirected

BODY_BYTES_MAX: Final = 64 * 1024  # of an answer; the rest is not read
_RESOLVING_THREADS: Final = 64  # one that waits for a silent name server is held for seconds
_CONNECT_SECONDS_MAX: Final = 5.0  # for one of several addresses of a name

Resolve = Callable[[str, int], Sequence[str]]


class Response(Struct, frozen=True):
    """An answer whose status is not 3xx."""

    status: int
    headers: Mapping[str, str]  # by name in lower case; several of one name are joined by ", "
    body: bytes
    is_cut: bool = False  # the body is longer, and only its beginning is here


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, also of forms like 127.1 or 0x7f000001. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Sender:
    """Sends requests. It ignores proxies in the environment and follows no redirects.

    `trusted` are the authorities of TLS; None: those of httpx, which SSL_CERT_FILE may name.
    """

    def __init__(
        self,
        rules: AddressRules,
        *,
        trusted: ssl.SSLContext | None = None,
        resolve: Resolve = system_resolver,
    ) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING_THREADS, "fairlog-resolve")
        self._backend = _CheckedAddresses(rules, resolve, self._threads)
        self._trusted = trusted

    async def send(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 (one deadline for all of it, the answer's body included)
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> Response:
        """POST a body and return the answer, whatever its status, unless that is 3xx.

        `timeout` is in seconds, from the look-up of the name to the last byte of the answer.
        Cancelled, it closes the connection.

        Raises `AddressRefused`, `Redirected` and `NoAnswer`.
        """
        target = parsed_url(url)
        origin = origin_of(target)
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(target, body, headers, body_bytes_max)
        except TimeoutError:
            raise NoAnswer(f"{origin} gave no complete answer within {timeout:g} s.") from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise NoAnswer(f"{origin} cannot be reached ({_reason(error)}).") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            ssl.SSLError,
            OSError,
        ) as error:
            raise NoAnswer(f"{origin} broke off the connection ({_reason(error)}).") from None

    def close(self) -> None:
        """Resolve no more names."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _exchange(
        self, url: httpx.URL, body: bytes, headers: Mapping[str, str], body_bytes_max: int
    ) -> Response:
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._trusted_authorities(),
                max_connections=1,
                max_keepalive_connections=0,
                network_backend=self._backend,
            ) as connections,
            connections.stream(
                "POST",
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=_sent_headers(url, headers),
                content=body,
            ) as answer,
        ):
            if 300 <= answer.status < 400:  # noqa: PLR2004 (the class of redirects)
                raise Redirected(
                    f"{origin_of(url)} answered {answer.status}, a redirect, and redirects are not "
                    "followed. Give the URL that it leads to."
                )
            received = bytearray()
            async for piece in answer.aiter_stream():
                received += piece
                if len(received) > body_bytes_max:
                    break
            return Response(
                status=answer.status,
                headers=_joined(answer.headers),
                body=bytes(received[:body_bytes_max]),
                is_cut=len(received) > body_bytes_max,
            )

    def _trusted_authorities(self) -> ssl.SSLContext:
        if self._trusted is None:
            self._trusted = httpx.create_ssl_context()  # 20 ms, once
        return self._trusted


class _CheckedAddresses(httpcore.AsyncNetworkBackend):
    """Connects to addresses that the rules allow, by the only look-up of the name."""

    def __init__(self, rules: AddressRules, resolve: Resolve, threads: ThreadPoolExecutor) -> None:
        self._rules = rules
        self._resolve = resolve
        self._threads = threads
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolved(host, port)
        for address in addresses:
            self._rules.check(host, address)
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            is_last = address == addresses[-1]
            try:
                return await self._network.connect_tcp(
                    address,
                    port,
                    timeout if is_last else _CONNECT_SECONDS_MAX,
                    local_address,
                    socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("its name has no address")

    async def _resolved(self, host: str, port: int) -> Sequence[str]:
        # Not the loop's own threads: names whose servers are silent would hold them.
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._resolve, host, port)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("its name cannot be resolved") from None


def _sent_headers(url: httpx.URL, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    chosen = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": "Fairlog",
        "Accept-Encoding": "identity",  # a small answer cannot unfold into a large one
        "Connection": "close",
    } | dict(headers)
    return [(name.encode("ascii"), value.encode("utf-8")) for name, value in chosen.items()]


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _reason(error: Exception) -> str:
    """Return the words of an error, without addresses: those of its cause by number, if it has."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed"
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) if isinstance(error, httpcore.ConnectError) else type(error).__name__
