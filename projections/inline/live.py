"""The projections that are kept in the writer's transaction, and how they come to be current."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.engine import Connection

from domain.decisions.ports import Projection
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.line import Lookahead, Unread
from domain.language.errors import LogUnavailable
from domain.language.identifiers import ClaimHash
from domain.language.moments import to_micros
from projections.inline.empty_claims import EmptyClaims
from projections.inline.jobs import JobsProjection
from projections.inline.line import LineProjection
from projections.inline.windows import WindowsProjection
from projections.storage import registry
from projections.storage.generations import InlineProjection

ROWS_KEPT_MAX: Final = 40_000  # between batches, some 40 MB


def inline_projections() -> tuple[InlineProjection, ...]:
    """Return the projections in the order of loading: loaded jobs decide which users are needed."""
    return (JobsProjection(), WindowsProjection(), LineProjection())


class LiveProjections:
    """The inline projections at their current generations, for the writer."""

    def __init__(self, projections: Sequence[Projection[Connection]]) -> None:
        self._projections: Final = projections
        self._generations: dict[str, int] = {}
        self._empty_claims = EmptyClaims()
        self._kept: WriteModel | None = None  # equal to the stored rows at its position
        self._known = RequiredRows()  # rows that it has, or knows to be absent

    def refresh(self, connection: Connection) -> None:
        """Read the current generations. Raises `LogUnavailable` and `LogTooNew`."""
        self.forget()
        registered = registry.read(connection)
        registry.check_versions(registered, self._projections)
        for projection in self._projections:
            found = registered.get(projection.name)
            if found is None or not found.is_built or found.version != projection.version:
                raise LogUnavailable(
                    f"The projection {projection.name!r} is not built for this release; "
                    "run `fairlog migrate`."
                )
            self._generations[projection.name] = found.generation

    def load(self, connection: Connection, position: int, required: RequiredRows) -> WriteModel:
        """Return a write model with the required rows, as of a position: the end of the log.

        Rows of earlier batches are not read again, unless another process has written meanwhile.
        """
        model = self._kept
        if model is None or model.position != position or self._known.size() > ROWS_KEPT_MAX:
            self.forget()
            model = WriteModel()
            model.position = position
        self._kept = None
        model.line.ahead = Lookahead()
        self._load(connection, required, model)
        return model

    def look_further(self, connection: Connection, unread: Unread, model: WriteModel) -> None:
        """Load more of the line. Stored rows are as before the batch; the model has the changes."""
        self._load(connection, RequiredRows(unread=unread), model)

    def _load(self, connection: Connection, required: RequiredRows, model: WriteModel) -> None:
        for projection in self._projections:
            at = self._generations[projection.name]
            projection.look_ahead(connection, at, required, model)
        for projection in self._projections:
            missing = required.without(self._known)
            projection.load(connection, self._generations[projection.name], missing, model)
            required.add(missing)
        self._known.add(required)

    def save(self, connection: Connection, model: WriteModel) -> None:
        """Write the changed rows."""
        for projection in self._projections:
            for write in projection.take_changes(self._generations[projection.name], model):
                write(connection)

    def note_empty_claims(
        self, connection: Connection, claims: Sequence[ClaimHash], now: datetime
    ) -> None:
        self._empty_claims.note(connection, claims, to_micros(now))

    def keep(self, model: WriteModel) -> None:
        """Keep a model for the next batch, once its changes are committed."""
        self._kept = model

    def forget(self) -> None:
        """Drop the model that is kept."""
        self._kept = None
        self._known = RequiredRows()
