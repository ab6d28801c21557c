"""Delivers callbacks: runs the service's own jobs by sending what they carry."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog
from msgspec import Raw, Struct

from adapters.clock import SystemClock
from adapters.outgoing.address_rules import AddressRules
from adapters.outgoing.errors import SendError
from adapters.outgoing.sender import Response, Sender
from adapters.outgoing.signatures import SecretKey, secret_key_of, signed_headers
from adapters.settings import Settings
from domain.callbacks.callbacks import Callback
from domain.language.callbacks import CALLBACK_KIND
from domain.language.errors import FairlogError, UnknownCallback
from domain.language.identifiers import CallbackName
from entrypoints.service.callbacks import all_callbacks, secret_versions
from entrypoints.service.fairlog import Fairlog
from fairlog_client.worker.error_bodies import error_body, error_of
from fairlog_client.worker.execution import (
    Execution,
    ProgressSink,
    RunResult,
    given_up,
    not_begun,
)
from fairlog_client.worker.outcomes import ClaimedJob

SEND_SECONDS_MAX: Final = 15.0  # from the look-up of the name to the last byte of the answer
ANSWER_BYTES_MAX: Final = 1_024  # that are read; an error quotes their beginning
QUOTED_CHARACTERS_MAX: Final = 200
ENDPOINTS_FRESH_SECONDS: Final = 1.0
_GONE: Final = 410  # the receiver wants no more
_HEADERS: Final = {"Content-Type": "application/cloudevents+json"}
_log = structlog.get_logger()


class _Payload(Struct):
    """The payload of a delivery; `domain.decisions.deliveries` makes it."""

    url: str
    event: Raw  # a CloudEvent, sent as these bytes
    callback: CallbackName | None = None


_decode: Final = msgspec.json.Decoder(_Payload).decode


def deliverer_of(fairlog: Fairlog, settings: Settings) -> "Deliverer | None":
    """Return what sends callbacks as the settings say; None: this server sends none. Raises
    `SettingsError`.
    """
    key = secret_key_of(settings)
    if key is None or not settings.callback_slots:
        return None
    sender = Sender(AddressRules.parsed(settings.callback_allow))
    return Deliverer(fairlog, sender, key, settings.callback_slots)


class Deliverer:
    """An `Executor` that sends callbacks, up to `slots` at once. It runs no code of users."""

    def __init__(self, fairlog: Fairlog, sender: Sender, key: SecretKey, slots: int) -> None:
        self._fairlog = fairlog
        self._sender = sender
        self._key = key
        self.slots = slots
        self._tasks: dict[Execution, asyncio.Task[None]] = {}
        self._endpoints: dict[CallbackName, Callback] = {}
        self._read_at = float("-inf")  # by the clock of the event loop
        self.able = asyncio.Event()

    @property
    def kinds(self) -> Mapping[str, float | None]:
        return {CALLBACK_KIND: None}

    @property
    def free(self) -> int:
        return max(0, self.slots - len(self._tasks))

    def start(self) -> None:
        self.able.set()

    def execute(
        self, job: ClaimedJob, began: Callable[[], None], progressed: ProgressSink
    ) -> Execution:
        execution = Execution(job, began, progressed)
        task = asyncio.create_task(self._run(execution), name=f"callback-{job.id}")
        self._tasks[execution] = task
        task.add_done_callback(lambda _: self._ended(execution))
        return execution

    def cancel(self, execution: Execution) -> None:
        execution.is_cancelled = True
        if (task := self._tasks.get(execution)) is not None:
            task.cancel()

    def give_up(self, execution: Execution, reason: str) -> None:
        self.cancel(execution)
        execution.end(given_up(reason))

    async def stop(self) -> None:
        self.able.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sender.close()

    def _ended(self, execution: Execution) -> None:
        self._tasks.pop(execution, None)
        execution.end(not_begun())  # unless it has ended; its task was cancelled

    async def _run(self, execution: Execution) -> None:
        execution.began()
        try:
            execution.end(await self._deliver(execution.job))
        except SendError as error:
            execution.end(RunResult(error=error_body(type(error).__name__, str(error))))
        except UnknownCallback as error:
            deleted = error_body("CallbackDeleted", str(error))
            execution.end(RunResult(error=deleted, may_retry=False))
        except FairlogError as error:
            _log.warning("callback_failed", job=execution.job.id, reason=str(error))
            execution.end(RunResult(error=error_of(error)))
        except Exception as error:  # noqa: BLE001 (a fault of ours fails the attempt)
            _log.exception("callback_failed", job=execution.job.id)
            execution.end(RunResult(error=error_of(error)))

    async def _deliver(self, job: ClaimedJob) -> RunResult:
        payload = _decode(bytes(job.payload))
        body = bytes(payload.event)
        secrets = await self._secrets(payload.callback)
        headers = signed_headers(secrets, str(job.id), SystemClock().now(), body)
        answer = await self._sender.send(
            payload.url,
            body,
            _HEADERS | headers,
            SEND_SECONDS_MAX,
            body_bytes_max=ANSWER_BYTES_MAX,
        )
        if 200 <= answer.status < 300:  # noqa: PLR2004 (the class of successes)
            return RunResult(result=msgspec.json.encode({"status": answer.status}))
        error = error_body("ReceiverRefused", _refusal(answer))
        return RunResult(error=error, may_retry=answer.status != _GONE)

    async def _secrets(self, callback: CallbackName | None) -> list[str]:
        """Return the secrets that sign for an endpoint now. Raises `UnknownCallback`."""
        now = asyncio.get_running_loop().time()
        is_missing = callback is not None and callback not in self._endpoints
        if is_missing or now - self._read_at > ENDPOINTS_FRESH_SECONDS:
            self._endpoints = await all_callbacks(self._fairlog)
            self._read_at = now
        name, versions = secret_versions(self._endpoints, callback, SystemClock().now())
        return [callback_secret(self._key, name, version) for version in versions]


def callback_secret(key: SecretKey, name: CallbackName, version: int) -> str:
    """Return a version of the secret of an endpoint."""
    return key.secret(f"callback/{name}", version)


def _refusal(answer: Response) -> str:
    quoted = answer.body.decode("utf-8", "replace")[:QUOTED_CHARACTERS_MAX]
    return f"The receiver answered {answer.status}{f': {quoted}' if quoted else '.'}"
