"""Server-Sent Events, as `GET /v1/stream` sends them."""

from collections.abc import Iterator

import msgspec

from fairlog_client.answers import Event
from fairlog_client.errors import UnexpectedAnswer


class EventParser:
    """Turns the pieces of a stream into events, and remembers the position that was reached."""

    def __init__(self, position: int | None = None) -> None:
        self.position = position  # every event up to it was received; None: not known yet
        self._buffer = b""

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that are complete with this piece. Raises `UnexpectedAnswer`."""
        *frames, self._buffer = (self._buffer + piece).split(b"\n\n")
        for frame in frames:
            yield from self._read(frame)

    def _read(self, frame: bytes) -> Iterator[Event]:
        position, data = self.position, None
        try:
            for line in frame.split(b"\n"):
                name, _, value = line.partition(b": ")
                if name == b"id":
                    position = int(value)
                elif name == b"data":
                    data = msgspec.json.decode(value, type=Event)
        except (ValueError, msgspec.MsgspecError) as error:
            raise UnexpectedAnswer(f"The stream is not one of a Fairlog server: {error}") from None
        self.position = position
        if data is not None:
            yield data
