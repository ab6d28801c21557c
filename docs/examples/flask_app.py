"""A Flask application that submits jobs, waits for results, and passes limits on to its callers.

    flask --app flask_app run

FAIRLOG_SERVER and FAIRLOG_KEY say where the service is, and with which key.
"""

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue

from fairlog_client import Fairlog, FairlogError, JobFailed, NotFound, RateLimited, Retries

# A caller waits for the answer, so a limit is passed on at once instead of being waited out.
RETRIES = Retries(total_seconds=1)
WAIT_SECONDS = 10.0

app = Flask(__name__)
fairlog = Fairlog(retries=RETRIES)  # one for all threads


@app.post("/thumbnails")
def submit() -> tuple[Response, int]:
    """Submit a job, and say where its result will be."""
    picture = request.get_json()
    job = fairlog.submit(
        user_id=picture["customer"], kind="echo", payload={"path": picture["path"]}
    )
    return jsonify(id=job.id, url=f"/thumbnails/{job.id}"), 202


@app.get("/thumbnails/<int:job_id>")
def result(job_id: int) -> ResponseReturnValue:
    """Return the result, or that there is none yet."""
    try:
        return jsonify(fairlog.result(job_id, timeout=WAIT_SECONDS))
    except TimeoutError:
        return jsonify(state="not ended"), 202
    except JobFailed as error:
        return jsonify(detail=error.message), 500
    except NotFound as error:
        return jsonify(detail=str(error)), 404


@app.errorhandler(RateLimited)
def too_many(error: RateLimited) -> tuple[Response, int, dict[str, str]]:
    """Pass the limit on: 429, with the time to wait."""
    seconds = max(1, round(error.retry_after))
    return jsonify(detail=str(error)), 429, {"Retry-After": str(seconds)}


@app.errorhandler(FairlogError)
def unavailable(error: FairlogError) -> tuple[Response, int, dict[str, str]]:
    """Answer 503 if the service is away. The same request may be sent again."""
    return jsonify(detail=str(error)), 503, {"Retry-After": "1"}
