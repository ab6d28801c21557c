"""The handlers that `fairlog worker` runs in a soak. Some fail, and some take their time."""

import time


def measure(payload, job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Fail now and then at the first attempt, and at times last longer than a heartbeat."""
    if payload["n"] % 17 == 0 and job.attempt == 1:
        raise ValueError("soaked")
    if payload["n"] % 29 == 0:
        job.progress(0.5, "half of it")
        job.cancellation.wait(2)
    return {"n": payload["n"], "attempt": job.attempt}


def order(payload):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    time.sleep(0.02)
    return payload


def tick(payload):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    time.sleep(0.1)
    return payload
