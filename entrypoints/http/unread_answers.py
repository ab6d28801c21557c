"""A limit on the bytes of unread answers, over all connections of a server.

An answer is passed to its connection as a whole and stays in memory until the client has read it.
A thousand clients that request pages of some megabytes and read nothing would use gigabytes. Beyond
the limit, the connections whose answers have been unread longest are closed. A client that keeps
reading is never unread for long.
"""

import asyncio


class UnreadAnswers:
    """The connections of one server whose write buffers are full."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        # At least the unread bytes: what a client reads is subtracted only later.
        self._bytes = 0
        self._unread: dict[asyncio.Transport, int] = {}  # bytes, the longest unread first

    def add(self, transport: asyncio.Transport) -> None:
        """Add a connection whose client reads more slowly than the server writes."""
        self.remove(transport)
        self._unread[transport] = size = transport.get_write_buffer_size()
        self._bytes += size
        if self._bytes > self._bytes_max:
            self._abort_longest_unread(transport)

    def remove(self, transport: asyncio.Transport) -> None:
        """Remove a connection whose client has read enough or has disconnected."""
        self._bytes -= self._unread.pop(transport, 0)

    def _abort_longest_unread(self, latest: asyncio.Transport) -> None:
        """Measure again, and abort connections until the limit holds; never `latest`."""
        for transport in self._unread:
            self._unread[transport] = transport.get_write_buffer_size()
        self._bytes = sum(self._unread.values())
        for transport in list(self._unread):
            if self._bytes <= self._bytes_max or transport is latest:
                return
            self.remove(transport)
            transport.abort()
