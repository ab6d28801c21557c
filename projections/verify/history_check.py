"""The pass that checks legality: whether the rules allow each event, and what the events give."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from sqlalchemy.engine import Connection

from domain.audit.archive_legality import misarchived
from domain.audit.callback_legality import miscalled
from domain.audit.key_legality import misuse
from domain.audit.legality import illegality, miscount, misplanned
from domain.audit.loss_legality import LossCheck
from domain.audit.parent_legality import misordered
from domain.audit.schedule_legality import misfired
from domain.decisions.write_model import WriteModel
from domain.language.events import BodiesErased, LeasesExtended, Recorded
from domain.log.stored_log import CutLog, StoredHead, StoredRow, recorded
from projections.following.async_projection import AsyncProjection
from projections.inline.jobs import jobs
from projections.rebuild.fold import GenerationFold
from projections.storage.generations import InlineProjection
from projections.verify.async_fold import EventFold, checkpoint_positions
from projections.verify.confirmed_jobs import ConfirmedJobs
from projections.verify.event_check import NO_EVENT
from projections.verify.expected_tables import (
    SCRATCH_GENERATION,
    ExpectedTables,
    restore_cut,
)
from projections.verify.findings import (
    Checked,
    Difference,
    Finding,
    FindingsSink,
    earliest,
    in_pages,
)
from projections.verify.log_pages import LogPage, LogPages


class HistoryCheck:
    """Checks that events are legal, and the inline and some asynchronous projections.

    The fold is that of a rebuild, into a scratch database, up to the position that the live rows
    stand at; events after it are only checked. Rows that are no events are skipped: `LogCheck`
    reports them.
    """

    def __init__(
        self,
        log: CutLog[Connection],
        snapshot: Connection,
        head: StoredHead,
        projections: Sequence[InlineProjection],
        following: Sequence[AsyncProjection[Recorded]],
        scratch: Connection,
    ) -> None:
        self._snapshot = snapshot
        self._following = following
        self._pages = LogPages(log, snapshot, as_events=True)
        self._end = head.position
        self._saved = min(head.saved, head.position)  # that the live rows stand at
        self._is_saved = False  # the scratch rows stand there, too
        self._scratch = scratch
        self._found: list[Finding | Difference] = []
        self._sink = FindingsSink(self._found.append)
        self._expected = ExpectedTables(snapshot, scratch, [*projections, *following], self._sink)
        self._events = EventFold(scratch, checkpoint_positions(snapshot, following), self._sink)
        self._confirmed_jobs: ConfirmedJobs | None = None
        self._fold = GenerationFold(
            [(self._with_live_rows(projection), SCRATCH_GENERATION) for projection in projections],
            events_expected=self._end,
            after=head.cut,
        )
        self._cut = head.cut
        self._losses = LossCheck()
        restore_cut(log, snapshot, head, [*projections, *following], scratch, self._fold.know)
        if head.cut:
            self._fold.know_earlier(_readable_rows(log.kept_rows(snapshot, head.cut)))
        self._stopped_at: int | None = None

    def pages(self) -> Iterator[Checked]:
        yield self._checked(0)
        with self._pages as pages:
            for page in pages.after(self._cut):
                self._take(page)
                yield self._checked(page.up_to)
                if self._stopped_at is not None or page.up_to >= self._end:
                    break
            self._events.finish()
            if self._stopped_at is None:
                self._take_rows()
        yield self._checked(self._end)

    def stopped_at(self) -> int | None:
        return earliest(self._stopped_at, self._events.stopped_at)

    def differences(self) -> Iterator[Sequence[Difference]]:
        confirmed, equal = self._confirmed_jobs, []
        if confirmed is not None:
            if confirmed.are_complete(self._snapshot, self._scratch):
                equal = [jobs]
            else:
                confirmed.copy_to_scratch(self._snapshot, self._scratch, SCRATCH_GENERATION)
        incomplete = self._events.without_checkpoint(self._following)
        return in_pages(self._expected.differences(incomplete, equal))

    def _with_live_rows(self, projection: InlineProjection) -> InlineProjection:
        live_generation = self._expected.live_generation(projection.name)
        if projection.name != ConfirmedJobs.name or live_generation is None:
            return projection
        self._confirmed_jobs = ConfirmedJobs(self._pages, live_generation)
        return self._confirmed_jobs

    def _checked(self, position: int) -> Checked:
        found = list(self._found)
        self._found.clear()
        return Checked(position, found)

    def _take(self, page: LogPage) -> None:
        events, unreadable = _readable(page, min(page.up_to, self._end))
        before = [event for event in events if event.position <= self._saved]
        try:
            self._fold_events(before)
            if self._fold.position >= self._saved:
                self._take_rows()
                self._fold_events(events[len(before) :])
        except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
            self._cannot_fold(self._fold.position + 1, error)
        else:
            self._events.take(events)
            self._stopped_at = unreadable

    def _fold_events(self, events: Sequence[Recorded]) -> None:
        self._fold.take(self._scratch, events, self._check_legality)
        if self._fold.is_save_due and not self._is_saved:
            for write in self._fold.take_due_changes():
                write(self._scratch)

    def _check_legality(self, model: WriteModel, recorded: Recorded) -> None:
        unaccepted = self._losses.wrong(recorded)
        if wrong := unaccepted or _illegality(model, recorded, self._cut):
            self._sink.about(
                recorded.position, f"{type(recorded.event).__name__} was illegal: {wrong}"
            )

    def _take_rows(self) -> None:
        """Write the changes that are left, so that the tables can be compared."""
        if self._is_saved or self._stopped_at is not None:
            return
        self._is_saved = True
        try:
            self._fold.save(self._scratch)
            if self._confirmed_jobs is not None:
                self._confirmed_jobs.confirm_rest(self._scratch, SCRATCH_GENERATION)
        except Exception as error:  # noqa: BLE001 (see above)
            self._cannot_fold(self._fold.position, error)

    def _cannot_fold(self, position: int, error: Exception) -> None:
        """Report that an event cannot be folded; raise the error if a query has failed."""
        if self._pages.has_failed:
            raise error
        self._sink.about(position, f"it cannot be folded ({type(error).__name__}: {error})")
        self._stopped_at = position


def _readable(page: LogPage, up_to: int) -> tuple[Sequence[Recorded], int | None]:
    """Return the events up to a position, and the position of the first row that is no event."""
    if page.events:
        return [one for one in page.events if one.position <= up_to], None
    events: list[Recorded] = []
    for row in page.rows:
        if not isinstance(row[0], int) or row[0] > up_to:
            break
        try:
            events.append(recorded(row))
        except NO_EVENT:
            return events, row[0]
    return events, None


def _readable_rows(rows: Sequence[StoredRow]) -> Iterator[Recorded]:
    """Yield the events of rows that are events; `ArchiveCheck` reports the others."""
    for row in rows:
        with suppress(*NO_EVENT):
            yield recorded(row)


def _illegality(model: WriteModel, recorded: Recorded, cut: int) -> str | None:
    jobs = model.jobs.rows
    if isinstance(recorded.event, LeasesExtended):
        for job_id, _ in recorded.event.jobs:
            job = jobs.get(job_id)
            if wrong := illegality(job, recorded) or misuse(model.keys, job, recorded):
                return wrong
        return None
    about = recorded.job_id
    before = None if about is None else jobs.get(about)
    if isinstance(recorded.event, BodiesErased) and before is None and about and about <= cut:
        return None  # the job ended before the cut, and only the segments have its history
    return (
        illegality(before, recorded)
        or miscount(model.windows, recorded)
        or misplanned(model.limits, recorded)
        or misordered(jobs, recorded)
        or misfired(model.schedules, model.jobs.rows, recorded)
        or miscalled(model.callbacks, jobs, recorded)
        or misarchived(model.archive, recorded)
        or misuse(model.keys, before, recorded)
    )
