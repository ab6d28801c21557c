"""Recovery of jobs that a dead server left running, with the name and the lock that it needs."""

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
    """Return the name under which recovery finds the jobs of this server's earlier processes.

    On SQLite all servers have the same name, since the lock on the file proves that an earlier one
    is dead. On MySQL it is the name `given` by the operator. If it is None, the name is new, and no
    job ran under it before. Raises `InvalidInput`.
    """
    if fairlog.database.is_sqlite:
        return _EMBEDDED
    if given is None:
        return ServerId(secrets.token_hex(8))
    return ServerId(validation.worker_id(given))


@contextlib.contextmanager
def sole_server(fairlog: Fairlog) -> Iterator[None]:
    """Hold the lock on a SQLite file for the block.

    Raises `FairlogError` while another server has it.
    """
    lock = server_lock(fairlog)
    if lock is not None:
        lock.acquire()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def recover_now(fairlog: Fairlog, given: str | None) -> list[Job]:
    """Recover jobs as `serve` does before it listens, and return the changed ones. Close `fairlog`.

    `given` is the name of the dead server (see `server_id_of`). Raises `NameTaken` while that
    server is alive, and `SettingsDiffer`.
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
