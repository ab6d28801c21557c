"""Open dashboards without a browser: they ask for what the pages' script asks for, when it does."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

_POSITION: Final = re.compile(r'data-position="(\d+)"')
_OPENING_SECONDS: Final = 2.0  # within which they are all opened
_CHARTS: Final = "/charts.json?span=15m"


class Onlooker:
    """Somebody with the overview in one window and the audit in another."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._position = 0  # of the latest event seen

    async def look(self) -> None:
        """Run until it is cancelled."""
        await asyncio.sleep(random.uniform(0, _OPENING_SECONDS))
        await asyncio.gather(self._overview(), self._audit())

    async def _overview(self) -> None:
        self._position = _position((await self._get("/")).text)
        await self._get(_CHARTS)
        async for position in self._stream("/pulse", self._position):
            self._position = max(self._position, position)
            await self._renew()

    async def _renew(self) -> None:
        """Do what `refresh` in app.js does."""
        seen = {"HX-Request": "true", "X-Fairlog-Position": str(self._position)}
        await asyncio.gather(self._get("/", seen), self._get(_CHARTS, seen))

    async def _audit(self) -> None:
        position = _position((await self._get("/audit")).text)
        async for _ in self._stream("/v1/stream", position):
            pass

    async def _get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        answer = await self._client.get(path, headers=headers)
        answer.raise_for_status()
        return answer

    async def _stream(self, path: str, after: int) -> AsyncIterator[int]:
        """The ids of the messages that a page is told of."""
        async with self._client.stream("GET", path, params={"after": after}) as answer:
            answer.raise_for_status()
            position = after
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    position = int(line.removeprefix("id: "))
                elif line.startswith("data: "):
                    yield position


@asynccontextmanager
async def onlookers(url: str, count: int) -> AsyncIterator[list[Onlooker]]:
    """Start a number of viewers; they open their pages one by one."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        people = [Onlooker(client) for _ in range(count)]
        looking = [asyncio.create_task(one.look()) for one in people]
        try:
            yield people
        finally:
            for one in looking:
                one.cancel()
            ended = await asyncio.gather(*looking, return_exceptions=True)
    if failed := [one for one in ended if not isinstance(one, asyncio.CancelledError)]:
        raise RuntimeError(f"{len(failed)} stopped looking: {failed[0]!r}")


def _position(page: str) -> int:
    found = _POSITION.search(page)
    if found is None:
        raise RuntimeError("the page does not say at which event it was made")
    return int(found[1])
