"""`python dramatiq_peer.py prepare|submit|work URL JOBS JOBS_PER_BATCH CONCURRENCY`.

Dramatiq has no call that sends many messages, so each is one of its own.
"""

import json
import logging
import sys
import threading
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

ROLE, URL = sys.argv[1:3]
JOBS, _, CONCURRENCY = map(int, sys.argv[3:6])

logging.getLogger("dramatiq").setLevel(logging.ERROR)
broker = RedisBroker(url=URL)
dramatiq.set_broker(broker)
done = 0
guard = threading.Lock()
all_done = threading.Event()


@dramatiq.actor
def noop(_payload: object) -> None:
    global done  # noqa: PLW0603 (an actor is a function of its module)
    with guard:
        done += 1
        if done == JOBS:
            all_done.set()


def prepare() -> None:
    broker.flush_all()


def submit() -> None:
    for number in range(JOBS):
        noop.send({"image": str(number), "width": 640})


def work() -> None:
    worker = dramatiq.Worker(broker, worker_threads=CONCURRENCY, worker_timeout=20)
    worker.start()
    all_done.wait()
    broker.join(noop.queue_name)  # until the last is acknowledged
    worker.stop()


started = time.time()
{"prepare": prepare, "submit": submit, "work": work}[ROLE]()
print(json.dumps({"started": started * 1000, "ended": time.time() * 1000}))
