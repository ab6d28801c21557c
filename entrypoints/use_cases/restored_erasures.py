"""Records anew what was erased after the end of a log that was restored.

The log may be restored to an earlier state than that in which bodies were erased from its segments:
from segments alone, or from an old dump. Those bodies are in no file any more, and no event of the
restored log says why.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.log import archived, audit_log
from domain.language.commands import RewriteSegment
from domain.language.events import BodiesErased, named_body
from domain.language.identifiers import JobId
from domain.log.segments import Segment, rewritten_event
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.erasure import Erased, erase_job
from entrypoints.use_cases.segment_erasure import without_since
from entrypoints.use_cases.whole_history import latest_files

EVENTS_PER_PAGE: Final = 4_000


def erase_again(fairlog: Fairlog, archive: Archive) -> Erased:
    """Erase the jobs of which a body is missing without an event, after cancelling those that have
    not ended; and record files that were written anew in the place of those that the log names.
    """
    done = Erased()
    jobs = fairlog.read_now(lambda connection: _incomplete_jobs(fairlog, connection))
    named = fairlog.read_now(archived.segments)
    files = latest_files(archive, named)
    if jobs or list(named) != files:
        fairlog.writer.start()
        for job_id in jobs:
            one = erase_job(fairlog, job_id, cancel=True)
            done.jobs += one.jobs
            done.bodies += one.bodies
        _record_files(fairlog, named, files)
    return done


def _incomplete_jobs(fairlog: Fairlog, connection: Connection) -> list[JobId]:
    """Return the jobs of which a body is missing that no event has erased."""
    missing: dict[int, JobId] = {}  # by the body's position
    after, end = 0, fairlog.log.position(connection)
    while after < end:
        page = fairlog.log.read(connection, after, EVENTS_PER_PAGE)
        up_to = page[-1].position
        stored = set(audit_log.body_positions(connection, after, up_to, len(page)))
        for one in page:
            if isinstance(one.event, BodiesErased):
                for position in one.event.positions:
                    missing.pop(position, None)
            elif one.job_id is not None and named_body(one.event) and one.position not in stored:
                missing[one.position] = one.job_id
        after = up_to
    return sorted(set(missing.values()))


def _record_files(fairlog: Fairlog, named: Sequence[Segment], files: Sequence[Segment]) -> None:
    since = without_since(fairlog.read_now(archived.segment_names))
    for segment, file in zip(named, files, strict=True):
        if file != segment:
            rewritten = rewritten_event(file, segment.name, since[segment.name])
            fairlog.execute_now(RewriteSegment(rewritten=rewritten))
