"""Free ports, for servers that tests start."""

import random
import socket
from typing import Final

PORTS: Final = range(15_000, 32_000)  # below those that outgoing connections take (32768 and up)


class NoFreePort(Exception):
    """None of a hundred ports is free."""


def free_port() -> int:
    """Return a port that nobody listens on now. Raises `NoFreePort`."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NoFreePort(f"no free port among 100 in {PORTS}")
