"""The registration of a server's name, and the check of the settings that all servers share.

A server registers its name before it starts, and a command that writes checks its settings. A
server ends if another one has its name, as after it was frozen for longer than its lease.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import structlog
from msgspec.structs import asdict
from sqlalchemy.exc import SQLAlchemyError

from adapters.servers.live_servers import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    LiveServer,
    LiveServers,
    Setting,
    differing,
    this_process,
)
from adapters.settings import Settings
from adapters.supervision import Part, supervise
from domain.language.errors import FairlogError
from domain.language.identifiers import ServerId
from domain.language.limits import RETRY_DEFAULTS
from domain.language.policy import Policy
from entrypoints.service.fairlog import Fairlog

_POLL_SECONDS: Final = 0.2  # between two checks whether a lease has ended

_log = structlog.get_logger()


class NameTaken(FairlogError):
    """Another live server has the name."""

    def __init__(self, server: LiveServer) -> None:
        super().__init__(
            f"A server named {server.name!r} is running already (process {server.process.pid} on "
            f"{server.process.host!r}); stop it first, or choose another --server-id."
        )


class SettingsDiffer(FairlogError):
    """A live server has other shared settings, so limits and leases would be inconsistent."""

    def __init__(self, server: LiveServer, settings: Mapping[str, Setting]) -> None:
        name = differing(server, settings)[0]
        here, there = _shown(settings[name]), _shown(server.settings[name])
        super().__init__(
            f"FAIRLOG_{name.upper()} is {here} here and {there} at the server {server.name!r} "
            f"(process {server.process.pid} on {server.process.host!r}); servers of one database "
            "need the same: change it here, or stop the others first."
        )


def _shown(setting: Setting) -> str:
    return "not set" if setting is None else str(setting)


def shared_settings(policy: Policy) -> dict[str, Setting]:
    """Return the settings that decisions depend on, by name; servers must agree on them.

    A switch is 1 or 0, and names are separated by commas: earlier releases know no other.
    """
    named = set(Settings.__struct_fields__)
    fields = asdict(policy)
    for name, default in RETRY_DEFAULTS.items():
        said = getattr(policy.retry, name, None)
        fields[f"retry_{name}"] = default if said is None else said
    return {name: _stored(value) for name, value in fields.items() if name in named}


def _stored(value: Setting | tuple[str, ...]) -> Setting:
    match value:
        case bool():
            return int(value)
        case tuple():
            return ",".join(value)
        case _:
            return value


@contextlib.contextmanager
def registered(
    fairlog: Fairlog, name: ServerId, on_lost: Callable[[FairlogError], None]
) -> Iterator[None]:
    """Hold a name for the block. Waits while an earlier server that may be dead has a lease on it.

    Raises `NameTaken` if that server is alive, and `SettingsDiffer`. If another server takes the
    name later, `on_lost` is called with the error, in a thread of its own.
    """
    servers, server = _new_server(fairlog, name)
    _join(servers, server)
    stopping = threading.Event()
    part = fairlog.supervisor.part("server_name")
    renewal = threading.Thread(
        target=supervise,
        args=(
            part,
            lambda: _renew(servers, server, part, stopping, fairlog.note_peers, on_lost),
            stopping,
        ),
        name="fairlog-name",
        daemon=True,
    )
    renewal.start()
    try:
        yield
    finally:
        stopping.set()
        renewal.join()
        with contextlib.suppress(FairlogError, SQLAlchemyError):  # its lease then ends by itself
            servers.leave(server)


def check_settings(fairlog: Fairlog) -> None:
    """Compare the settings with those of live servers, before a command writes.

    Raises `SettingsDiffer`.
    """
    servers, server = _new_server(fairlog, ServerId(""))
    for other in servers.others(server.token):
        if differing(other, server.settings):
            raise SettingsDiffer(other, server.settings)


def _new_server(fairlog: Fairlog, name: ServerId) -> tuple[LiveServers, LiveServer]:
    settings = shared_settings(fairlog.policy)
    server = LiveServer(name, secrets.token_hex(16), 0, this_process(), settings)
    return LiveServers(fairlog.database, fairlog.log), server


def _join(servers: LiveServers, server: LiveServer) -> None:
    """Take the name, and wait for the leases of servers that may be dead.

    Raises `NameTaken` or `SettingsDiffer` if one of them renews its lease, since it is then alive.
    """
    deadline = time.monotonic() + LEASE_SECONDS + RENEW_SECONDS
    seen: dict[str, int] = {}  # by token: the end of its lease when first seen
    while conflicting := servers.join(server):
        for other in conflicting:
            if other.name != server.name and differing(other, server.settings):
                _wait_or_raise(other, seen, deadline, SettingsDiffer(other, server.settings))
            elif other.name == server.name:
                _wait_or_raise(other, seen, deadline, NameTaken(other))
        time.sleep(_POLL_SECONDS)


def _wait_or_raise(
    other: LiveServer, seen: dict[str, int], deadline: float, error: FairlogError
) -> None:
    if other.token not in seen:
        seen[other.token] = other.lease_until
        _log.info(
            "waiting_for_lease",
            server=other.name,
            host=other.process.host,
            process=other.process.pid,
            seconds_max=LEASE_SECONDS,
        )
    elif other.lease_until != seen[other.token] or time.monotonic() > deadline:
        raise error


def _renew(
    servers: LiveServers,
    server: LiveServer,
    part: Part,
    stopping: threading.Event,
    on_renewed: Callable[[int], None],
    on_lost: Callable[[FairlogError], None],
) -> None:
    while not stopping.wait(RENEW_SECONDS):
        try:
            part.begins()
            others = servers.renew(server)
            if others is not None:
                on_renewed(others)
                part.works()
                continue
            taken = [one for one in servers.join(server) if one.name == server.name]
        except Exception as error:  # noqa: BLE001 (whatever it is, the next renewal may succeed)
            part.fails(error)
            continue
        part.works()
        if taken:
            lost = NameTaken(taken[0])
            _log.error("name_lost", server=server.name, reason=str(lost))
            on_lost(lost)
            return
