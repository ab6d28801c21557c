"""The workers of a server that post jobs to endpoints: one for each kind that has one.

A worker of its own keeps an endpoint that hangs from holding the slots of the others.
"""

import asyncio
from typing import Final

import structlog
from msgspec import Struct

from adapters.log.event_pages import latest_position
from adapters.outgoing.address_rules import AddressRules
from adapters.outgoing.sender import Sender
from adapters.outgoing.signatures import SecretKey, secret_key_of
from adapters.settings import Settings
from domain.language.identifiers import Kind, ServerId
from domain.language.limits import PushEndpoint
from domain.limits.limits import SUBJECTS_MAX
from entrypoints.service.fairlog import Fairlog
from entrypoints.worker.embedded import EmbeddedWorker
from entrypoints.worker.push_executor import PushExecutor

REFRESH_SECONDS: Final = 0.5  # between two looks for other endpoints
_LIMIT_CHANGED: Final = "LimitChanged"
_log = structlog.get_logger()


class PushOptions(Struct, frozen=True, kw_only=True):
    """The things that a server needs to post jobs."""

    rules: AddressRules
    key: SecretKey | None  # None: requests cannot be signed, so none are sent
    slots: int  # jobs posted at once, for each kind; from 1


def push_options(settings: Settings) -> PushOptions | None:
    """Return what the settings say; None: this server posts no jobs. Raises `SettingsError`."""
    key = secret_key_of(settings)
    if not settings.push_slots:
        return None
    rules = AddressRules.parsed(settings.callback_allow)
    return PushOptions(rules=rules, key=key, slots=settings.push_slots)


class PushWorkers:
    """The workers for the endpoints that are set. Use it on one event loop."""

    def __init__(
        self, fairlog: Fairlog, options: PushOptions, server_id: ServerId, grace_seconds: float
    ) -> None:
        self._fairlog = fairlog
        self._options = options
        self._server_id = server_id
        self._grace_seconds = grace_seconds
        self._sender = Sender(options.rules)
        self._workers: dict[Kind, tuple[EmbeddedWorker, PushExecutor]] = {}
        self._unserved: set[Kind] = set()  # that were logged, for lack of a key
        self._ending: set[asyncio.Task[None]] = set()
        self._news = fairlog.log_watcher.subscribe(own_types={_LIMIT_CHANGED})
        self._looked_at = -1  # the news when the log was looked into
        self._changed_at = -1  # position of the latest change of limits

    async def refresh(self) -> None:
        """Start, change and end workers, if limits have changed. Raises `LogUnavailable`."""
        news = self._news.value
        if news == self._looked_at:
            return
        changed_at = await self._fairlog.read(
            lambda connection: latest_position(connection, _LIMIT_CHANGED)
        )
        if changed_at != self._changed_at:
            self._follow(await self._endpoints())
            self._changed_at = changed_at
        self._looked_at = news

    async def stop(self) -> None:
        """End all workers; jobs whose requests do not end in time are returned."""
        for kind in list(self._workers):
            self._end(kind)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._sender.close()

    async def _endpoints(self) -> dict[Kind, PushEndpoint]:
        fairlog = self._fairlog
        query = fairlog.with_saved_rows(
            lambda connection: fairlog.windows.set_names(connection, "kind", "", SUBJECTS_MAX)
        )
        return {
            Kind(name): limits.push
            for name, limits, _ in await fairlog.read(query)
            if limits.push is not None
        }

    def _follow(self, endpoints: dict[Kind, PushEndpoint]) -> None:
        for kind in self._workers.keys() - endpoints.keys():
            self._end(kind)
        for kind, endpoint in endpoints.items():
            if kind in self._workers:
                self._workers[kind][1].endpoint = endpoint
            elif self._options.key is not None:
                self._begin(kind, endpoint, self._options.key)
            elif kind not in self._unserved:
                self._unserved.add(kind)
                _log.warning(
                    "push_endpoint_not_served",
                    kind=kind,
                    reason="Requests are signed with a key; name its file: --callback-key-file.",
                )

    def _begin(self, kind: Kind, endpoint: PushEndpoint, key: SecretKey) -> None:
        options = self._options
        executor = PushExecutor(kind, endpoint, self._sender, key, options.slots)
        worker = EmbeddedWorker(self._fairlog, executor, options.slots, self._server_id)
        worker.start()
        self._workers[kind] = worker, executor

    def _end(self, kind: Kind) -> None:
        worker, _ = self._workers.pop(kind)
        task = asyncio.create_task(worker.stop(self._grace_seconds), name=f"push-end-{kind}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
