"""A TCP proxy before a MySQL or MariaDB server that makes statements fail, hang, or lose their
connection.

A statement that is to fail is replaced by a SIGNAL with the error's number, which the server itself
answers: so the client sees an error packet in its right place, whatever else it has sent along. As
with most real errors, what the transaction did before stays as it is until somebody ends it.
"""

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pymysql.constants import CLIENT, COMMAND, ER
from sqlalchemy import make_url

# Every number of the server's list (1000 and up) that the driver knows, and some that came later.
ERROR_NUMBERS: Final[Sequence[int]] = sorted(
    {number for name, number in vars(ER).items() if name.isupper() and 1000 <= number < 2000}
    | {1290, 1792, 1836, 1927, 3024, 3100, 3101, 3168, 4031}
)

_HEADER_BYTES: Final = 4  # 3 of length, little-endian, and a sequence number
_CHUNK: Final = 64 * 1024


@dataclass
class _Rule:
    pattern: re.Pattern[str]
    number: int
    left: int  # statements that are still to fail


class FaultProxy:
    """A context manager. It passes everything on until it is told otherwise.

    `chance` draws for `fail_randomly`; give it a seed to repeat a run.
    """

    def __init__(self, server_url: str, chance: random.Random | None = None) -> None:
        self._server = make_url(server_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._chance = chance or random.Random()
        self._rate = 0.0
        self._numbers: Sequence[int] = ERROR_NUMBERS
        self._rules: list[_Rule] = []
        self._changes: list[tuple[re.Pattern[str], str]] = []
        self._hanging_until = 0.0  # time.monotonic()
        self._delay_seconds = 0.0  # of each packet to the server
        self._refuses = False
        self._guard = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self.failed: Counter[tuple[str, int]] = Counter()  # by the statement's first word, number

    @property
    def url(self) -> str:
        """The server's, by way of the proxy."""
        port = self._listener.getsockname()[1]
        return self._server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def fail(self, pattern: str, number: int, times: int = 1) -> None:
        """Have the next statements that the regular expression is found in fail with an error.

        The statement is not carried out. `times` counts them over all connections.
        """
        with self._guard:
            self._rules.append(_Rule(re.compile(pattern, re.IGNORECASE), number, times))

    def change(self, pattern: str, replacement: str) -> None:
        """Replace matches of the pattern in all statements that follow, as `re.sub` does."""
        with self._guard:
            self._changes.append((re.compile(pattern, re.IGNORECASE), replacement))

    def fail_randomly(self, rate: float, numbers: Sequence[int] = ERROR_NUMBERS) -> None:
        """Have each statement that follows fail with this probability; 0: none."""
        with self._guard:
            self._rate, self._numbers = rate, numbers

    def recover(self) -> None:
        """Pass everything on again."""
        with self._guard:
            self._rate, self._rules, self._hanging_until = 0.0, [], 0.0
            self._changes, self._refuses, self._delay_seconds = [], False, 0.0

    def hang(self, seconds: float) -> None:
        """Let nothing through to the server for so long; what comes meanwhile goes on then."""
        with self._guard:
            self._hanging_until = time.monotonic() + seconds

    def slow(self, seconds: float) -> None:
        """Delay each packet to the server by so long, until `recover`."""
        with self._guard:
            self._delay_seconds = seconds

    def refuse_connections(self) -> None:
        """Close each new connection at once, until `recover`."""
        with self._guard:
            self._refuses = True

    def cut(self) -> None:
        """Close every connection."""
        with self._guard:
            open_now = [*self._sockets]
        for one in open_now:
            _end(one)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.recover()
        _end(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            try:
                server = socket.create_connection((self._server.host, self._server.port or 3306))
            except OSError:
                _end(client)
                continue
            with self._guard:
                refused = self._refuses
                self._sockets |= {client, server}
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if refused:
                self._close(client, server)
                continue
            self._start(self._pump_to_server, client, server)
            self._start(self._pump_to_client, client, server)

    def _pump_to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for header, body in _packets(client):
                self._wait_while_hanging()
                server.sendall(self._changed(header, body))
        self._close(client, server)

    def _pump_to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for header, body in _packets(server):
                client.sendall(header + _without_tls(body))
                break
            while data := server.recv(_CHUNK):
                client.sendall(data)
        self._close(client, server)

    def _wait_while_hanging(self) -> None:
        while (left := self._hanging_until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        if self._delay_seconds:
            time.sleep(self._delay_seconds)

    def _changed(self, header: bytes, body: bytes) -> bytes:
        is_command = header[3] == 0  # later packets of one exchange have higher numbers
        if not is_command or body[:1] != bytes([COMMAND.COM_QUERY]):
            return header + body
        text = body[1:].decode(errors="replace")
        number = self._number_for(text)
        if number is None:
            return self._with_changes(header, body, text)
        with self._guard:
            self.failed[text.split(None, 1)[0].split(";")[0].upper(), number] += 1
        signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'injected'"
        return _query(header, signal)

    def _with_changes(self, header: bytes, body: bytes, text: str) -> bytes:
        with self._guard:
            changes = list(self._changes)
        changed = text
        for pattern, replacement in changes:
            changed = pattern.sub(replacement, changed)
        return header + body if changed == text else _query(header, changed)

    def _number_for(self, text: str) -> int | None:
        with self._guard:
            for rule in self._rules:
                if rule.left and rule.pattern.search(text):
                    rule.left -= 1
                    return rule.number
            if self._rate and self._chance.random() < self._rate:
                return self._chance.choice(self._numbers)
        return None

    def _close(self, *sockets: socket.socket) -> None:
        with self._guard:
            self._sockets -= set(sockets)
        for one in sockets:
            _end(one)


def _packets(source: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Each packet's header and body, until the other side ends."""
    buffer = bytearray()
    while data := source.recv(_CHUNK):
        buffer += data
        while len(buffer) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(buffer[:3], "little")
            if len(buffer) < end:
                break
            header, body = bytes(buffer[:_HEADER_BYTES]), bytes(buffer[_HEADER_BYTES:end])
            del buffer[:end]
            yield header, body


def _query(header: bytes, text: str) -> bytes:
    body = bytes([COMMAND.COM_QUERY]) + text.encode()
    return len(body).to_bytes(3, "little") + header[3:] + body


def _without_tls(greeting: bytes) -> bytes:
    """The server's greeting without its offer of TLS, under which no statement could be read."""
    # A protocol version, the server's version up to a NUL, a thread id (4), salt (8), a NUL.
    at = greeting.index(b"\x00", 1) + 1 + 4 + 8 + 1
    flags = int.from_bytes(greeting[at : at + 2], "little") & ~CLIENT.SSL
    return greeting[:at] + flags.to_bytes(2, "little") + greeting[at + 2 :]


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
