"""Delivers callbacks: runs the service's own jobs by sending what they carry."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from msgspec import Raw, Struct
from msgspec.structs import replace

from adapters.clock import SystemClock
from adapters.outgoing.address_rules import AddressRules
from adapters.outgoing.sender import Response, Sender
from adapters.outgoing.signatures import SecretKey, secret_key_of, signed_headers
from adapters.settings import Settings
from domain.callbacks.callbacks import Callback
from domain.language.callbacks import CALLBACK_KIND
from domain.language.errors import FairlogError, UnknownCallback
from domain.language.identifiers import CallbackName
from domain.language.moments import UNIX_EPOCH
from entrypoints.service.callbacks import callbacks_now, secret_versions
from entrypoints.service.fairlog import Fairlog
from entrypoints.worker.request_executor import SUCCESS, RequestExecutor, failed
from fairlog_client.worker.error_bodies import error_of
from fairlog_client.worker.execution import RunResult
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


class Deliverer(RequestExecutor):
    """Sends callbacks, `slots` at once."""

    def __init__(self, fairlog: Fairlog, sender: Sender, key: SecretKey, slots: int) -> None:
        super().__init__(slots)
        self._fairlog = fairlog
        self._sender = sender
        self._key = key
        self._endpoints: dict[CallbackName, Callback] = {}
        self._log_time = UNIX_EPOCH  # when they were read
        self._read_at = float("-inf")  # the same, by the clock of the event loop

    @property
    def kinds(self) -> Mapping[str, float | None]:
        return {CALLBACK_KIND: None}

    async def stop(self) -> None:
        await super().stop()
        self._sender.close()

    async def send(self, job: ClaimedJob) -> RunResult:
        payload = _decode(bytes(job.payload))
        try:
            secrets = await self._secrets(payload.callback)
        except UnknownCallback as error:
            return replace(failed("CallbackDeleted", str(error)), may_retry=False)
        except FairlogError as error:
            _log.warning("callback_failed", job=job.id, reason=str(error))
            return RunResult(error=error_of(error))
        body = bytes(payload.event)
        headers = signed_headers(secrets, str(job.id), SystemClock().now(), body)
        answer = await self._sender.send(
            payload.url,
            body,
            _HEADERS | headers,
            SEND_SECONDS_MAX,
            body_bytes_max=ANSWER_BYTES_MAX,
        )
        if answer.status in SUCCESS:
            return RunResult(result=msgspec.json.encode({"status": answer.status}))
        refused = failed("ReceiverRefused", _refusal(answer))
        return replace(refused, may_retry=answer.status != _GONE)

    async def _secrets(self, callback: CallbackName | None) -> list[str]:
        """Return the secrets that sign for an endpoint now. Raises `UnknownCallback`."""
        now = asyncio.get_running_loop().time()
        is_missing = callback is not None and callback not in self._endpoints
        if is_missing or now - self._read_at > ENDPOINTS_FRESH_SECONDS:
            self._endpoints, self._log_time = await callbacks_now(self._fairlog)
            self._read_at = now
        name, versions = secret_versions(self._endpoints, callback, self._log_time)
        return [callback_secret(self._key, name, version) for version in versions]


def callback_secret(key: SecretKey, name: CallbackName, version: int) -> str:
    """Return a version of the secret of an endpoint."""
    return key.secret(f"callback/{name}", version)


def _refusal(answer: Response) -> str:
    quoted = answer.body.decode("utf-8", "replace")[:QUOTED_CHARACTERS_MAX]
    return f"The receiver answered {answer.status}{f': {quoted}' if quoted else '.'}"
