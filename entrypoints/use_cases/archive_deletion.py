"""Deletes what is archived from the database, in small steps, while the service runs."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy.engine import Connection

from adapters.log import archived
from domain.decisions.ports import Cut
from domain.language.commands import CompleteArchive
from domain.language.identifiers import JobId
from entrypoints.service.fairlog import Fairlog
from projections.following.snapshots import snapshots
from projections.rebuild.cut import removals, remove_jobs
from projections.rebuild.cut_rows import cut_bodies, cut_job_ids
from projections.storage import registry
from projections.storage.rows import upsert
from projections.storage.snapshot import unpacked

REST: Final = 4.0  # pause after a step, as a multiple of the step's time

Progress = Callable[[str, int, int], None]  # what is being done, events done, events of this step
_Step = Callable[..., int]  # returns the position that it has reached


def finish(fairlog: Fairlog, progress: Progress) -> None:
    """Delete what is archived and still stored, as an earlier run that was stopped may have left
    it.
    """
    cut = fairlog.read_now(fairlog.log.cut)
    if not cut.position or fairlog.read_now(archived.is_completed):
        return
    with fairlog.database.read() as connection:
        kept_jobs = cut_job_ids(fairlog.log, connection, cut)
        kept_bodies = cut_bodies(fairlog.log, connection, cut)
        generations = {name: one.generation for name, one in registry.read(connection).items()}
    remove_ended = partial(_remove_jobs, fairlog, generations["jobs"], cut.position, kept_jobs)
    states = generations["snapshots"]
    # First, since a server that starts meanwhile begins with this state once the events are gone.
    _store_state(fairlog, states, cut)
    _delete_rows(fairlog, cut.position, kept_bodies, progress)
    remove_ended()
    for remove in removals(states, generations["merkle"], cut.position):
        _in_steps(fairlog, remove)
    fairlog.execute_now(CompleteArchive(last=cut.position))
    remove_ended()  # until then a process may have had one in memory, and written its row again
    _in_steps(fairlog, partial(archived.remove_other_snapshots, snapshot=cut.snapshot))


def _delete_rows(
    fairlog: Fairlog, cut: int, kept: dict[JobId, list[int]], progress: Progress
) -> None:
    """Delete the events and bodies up to the cut, except those that stay."""
    stay = sorted(position for some in kept.values() for position in some)
    steps: list[tuple[str, _Step]] = [
        ("deleting bodies", partial(archived.delete_bodies, up_to=cut, kept=stay)),
        ("deleting events", partial(archived.delete_events, up_to=cut)),
    ]
    for what, delete in steps:
        after = 0
        while after < cut:
            after = _rested(fairlog, partial(delete, after=after))
            progress(what, after, cut)


def _store_state(fairlog: Fairlog, generation: int, cut: Cut) -> None:
    """Store the system's state at the cut, where time travel begins from now on."""
    with fairlog.database.read() as connection:
        for part in unpacked(fairlog.log.snapshot_parts(connection, cut.snapshot)):
            if part.table == snapshots.name:
                rows = [(generation, *row) for row in part.rows]
                with fairlog.database.write() as writing:
                    upsert(writing, snapshots, rows)


def _remove_jobs(fairlog: Fairlog, generation: int, cut: int, kept: set[JobId]) -> None:
    """Delete the rows of the jobs that the snapshot at the cut leaves out."""
    after = 0
    while after < cut:
        step = partial(remove_jobs, generation=generation, after=after, up_to=cut, kept=kept)
        after = _rested(fairlog, step)


def _in_steps(fairlog: Fairlog, remove: Callable[[Connection], int]) -> None:
    while _rested(fairlog, remove):
        pass


def _rested(fairlog: Fairlog, run: Callable[[Connection], int]) -> int:
    """Run a step in a transaction, and leave the database to others for `REST` times as long."""
    started = time.monotonic()
    with fairlog.database.write() as connection:
        found = run(connection)
    time.sleep((time.monotonic() - started) * REST)
    return found
