import asyncio
import sys
from typing import Any

import pytest
import uvloop

from adapters.settings import Settings
from adapters.writer_frames import Begin
from adapters.writer_process import WriterProcess
from domain.errors import LogUnavailable
from tests.support.stories import submit

READS = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]))\nwhile s.recv(4096): pass"


def test_what_was_to_be_sent_when_the_writer_was_lost_is_refused_like_the_rest() -> None:
    """Both in one turn of the loop: first a caller comes, then the end of the connection."""
    troubles: list[dict[str, Any]] = []

    async def ask_as_it_is_lost() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        await writer.attach()
        waiting = asyncio.create_task(writer.execute(submit()))
        await asyncio.sleep(0)
        late = asyncio.create_task(writer.execute(submit()))
        assert writer._transport is not None
        writer._transport.abort()
        for one in (waiting, late):
            with pytest.raises(LogUnavailable, match="the same idempotency key"):
                await one

    begin = Begin(Settings(database_url=""), logs_json=False)
    writer = WriterProcess([sys.executable, "-c", READS], begin)
    writer.start()
    uvloop.run(ask_as_it_is_lost())
    writer.stop()
    assert troubles == []
