"""A FastAPI application that submits jobs, waits for results, and passes limits on to its callers.

    uvicorn fastapi_app:app

FAIRLOG_SERVER and FAIRLOG_KEY say where the service is, and with which key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from fairlog_client import AsyncFairlog, FairlogError, JobFailed, NotFound, RateLimited, Retries

# A caller waits for the answer, so a limit is passed on at once instead of being waited out.
RETRIES = Retries(total_seconds=1)
WAIT_SECONDS = 10.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncFairlog(retries=RETRIES) as fairlog:
        app.state.fairlog = fairlog
        yield


app = FastAPI(lifespan=lifespan)


def fairlog_of(request: Request) -> AsyncFairlog:
    fairlog: AsyncFairlog = request.app.state.fairlog
    return fairlog


Service = Annotated[AsyncFairlog, Depends(fairlog_of)]


class Picture(BaseModel):
    customer: str
    path: str


@app.post("/thumbnails", status_code=202)
async def submit(picture: Picture, fairlog: Service) -> dict[str, Any]:
    """Submit a job, and say where its result will be."""
    job = await fairlog.submit(
        user_id=picture.customer, kind="echo", payload={"path": picture.path}
    )
    return {"id": job.id, "url": f"/thumbnails/{job.id}"}


@app.get("/thumbnails/{job_id}")
async def result(job_id: int, fairlog: Service) -> Any:  # noqa: ANN401 (whatever the handler returned)
    """Return the result, or that there is none yet."""
    try:
        return await fairlog.result(job_id, timeout=WAIT_SECONDS)
    except TimeoutError:
        return JSONResponse({"state": "not ended"}, status_code=202)
    except JobFailed as error:
        raise HTTPException(500, detail=error.message) from error
    except NotFound as error:
        raise HTTPException(404) from error


@app.exception_handler(RateLimited)
async def too_many(_: Request, error: RateLimited) -> JSONResponse:
    """Pass the limit on: 429, with the time to wait."""
    return JSONResponse(
        {"detail": str(error)},
        status_code=429,
        headers={"Retry-After": str(max(1, round(error.retry_after)))},
    )


@app.exception_handler(FairlogError)
async def unavailable(_: Request, error: FairlogError) -> JSONResponse:
    """Answer 503 if the service is away. The same request may be sent again."""
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})
