"""Recovery as a door needs it: under which name, and who must be kept off meanwhile."""

import contextlib
import secrets
from collections.abc import Iterator
from typing import Final

from domain.jobs.job import Job
from domain.language import validation
from domain.language.identifiers import ServerId
from entrypoints.composition import prepare, server_lock
from entrypoints.processes.registration import registered
from entrypoints.service.fairlog import Fairlog

_EMBEDDED: Final = ServerId("embedded")


def server_id_of(fairlog: Fairlog, given: str | None) -> ServerId:
    """Who a server is to recovery.

    On SQLite the lock on the file proves that an earlier server is dead, so all have one name. On
    MySQL that takes a name that the operator gives; without one, nothing ran under it before.
    """
    if fairlog.database.is_sqlite:
        return _EMBEDDED
    if given is None:
        return ServerId(secrets.token_hex(8))
    return ServerId(validation.worker_id(given))


@contextlib.contextmanager
def sole_server(fairlog: Fairlog) -> Iterator[None]:
    """On SQLite, keep every other server off the file. Raises `FairlogError` while one is on it."""
    lock = server_lock(fairlog)
    if lock is not None:
        lock.acquire()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def recover_now(fairlog: Fairlog, given: str | None) -> list[Job]:
    """What `serve` does before it listens; returns the jobs that changed, and closes `fairlog`.

    Raises `NameTaken` while the server lives, and `SettingsDiffer`.
    """
    name = server_id_of(fairlog, given)
    with sole_server(fairlog), contextlib.closing(fairlog):
        prepare(fairlog)
        with registered(fairlog, name, on_lost=lambda _: None):
            fairlog.writer.start()
            try:
                return fairlog.recover(name)
            finally:
                fairlog.writer.stop()
