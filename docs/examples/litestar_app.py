"""A Litestar application with a plugin that gives its routes a client, and passes limits on.

    uvicorn litestar_app:app

FAIRLOG_SERVER and FAIRLOG_KEY say where the service is, and with which key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.config.app import AppConfig
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, JSONBody
from litestar.plugins import InitPlugin
from msgspec import Struct

from fairlog_client import AsyncFairlog, FairlogError, JobFailed, NotFound, RateLimited, Retries


class FairlogPlugin(InitPlugin):
    """Gives routes the dependency `fairlog`, and answers its errors as an HTTP service should."""

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        app_config.lifespan.append(self._lifespan)
        app_config.dependencies["fairlog"] = Provide(self._provide, sync_to_thread=False)
        app_config.exception_handlers.setdefault(RateLimited, _too_many)
        app_config.exception_handlers.setdefault(FairlogError, _unavailable)
        return app_config

    @asynccontextmanager
    async def _lifespan(self, _: Litestar) -> AsyncIterator[None]:
        # A caller waits for the answer: a limit is passed on at once instead of being waited out.
        async with AsyncFairlog(retries=Retries(total_seconds=1)) as self._client:
            yield

    def _provide(self) -> AsyncFairlog:
        return self._client


def _too_many(_: Request[Any, Any, Any], error: RateLimited) -> Response[dict[str, str]]:
    headers = {"Retry-After": str(max(1, round(error.retry_after)))}
    return Response({"detail": str(error)}, status_code=429, headers=headers)


def _unavailable(_: Request[Any, Any, Any], error: FairlogError) -> Response[dict[str, str]]:
    return Response({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})


class Picture(Struct):
    customer: str
    path: str


@post("/thumbnails", status_code=202)
async def submit(
    data: JSONBody[Picture], fairlog: NamedDependency[AsyncFairlog]
) -> dict[str, int | str]:
    """Submit a job, and say where its result will be."""
    job = await fairlog.submit(user_id=data.customer, kind="echo", payload={"path": data.path})
    return {"id": job.id, "url": f"/thumbnails/{job.id}"}


@get("/thumbnails/{job_id:int}")
async def result(job_id: FromPath[int], fairlog: NamedDependency[AsyncFairlog]) -> Response[Any]:
    """Return the result, or that there is none yet."""
    try:
        return Response(await fairlog.result(job_id, timeout=10))
    except TimeoutError:
        return Response({"state": "not ended"}, status_code=202)
    except JobFailed as error:
        return Response({"detail": error.message}, status_code=500)
    except NotFound as error:
        raise NotFoundException(str(error)) from error


app = Litestar(route_handlers=[submit, result], plugins=[FairlogPlugin()])
