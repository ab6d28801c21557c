"""Answers that their clients have not read yet: bounded in bytes, over all connections together.

An answer is handed to its connection whole, and stays in memory until the client has read it. A
client that asks for a page of some megabytes and reads nothing holds as much, and a thousand of
them would hold gigabytes. Where there is too much, those that have been unread longest are given
up: whoever reads on is not among them for long.
"""

import asyncio


class UnreadAnswers:
    """The connections of one server to which nothing more can be written for now."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0  # never less than there are: what is read meanwhile is looked at late
        self._unread: dict[asyncio.Transport, int] = {}  # bytes, the longest unread first

    def add(self, transport: asyncio.Transport) -> None:
        """Its client does not read as fast as it is written to."""
        self.remove(transport)
        self._unread[transport] = size = transport.get_write_buffer_size()
        self._bytes += size
        if self._bytes > self._bytes_max:
            self._make_room(transport)

    def remove(self, transport: asyncio.Transport) -> None:
        """It has read on, or has gone."""
        self._bytes -= self._unread.pop(transport, 0)

    def _make_room(self, newcomer: asyncio.Transport) -> None:
        for transport in self._unread:
            self._unread[transport] = transport.get_write_buffer_size()
        self._bytes = sum(self._unread.values())
        for transport in list(self._unread):
            if self._bytes <= self._bytes_max or transport is newcomer:
                return
            self.remove(transport)
            transport.abort()
