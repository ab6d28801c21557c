"""The callbacks projection: one row per endpoint. There are few, and all are in memory."""

from functools import partial

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.callbacks.callbacks import Callback
from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.language.identifiers import CallbackName
from projections.storage.rows import Document, Identifier, Row, generation, upserting

VERSION = 1
metadata = sa.MetaData()

callbacks = sa.Table(
    f"callbacks_v{VERSION}",
    metadata,
    generation(),
    sa.Column("name", Identifier, primary_key=True),
    sa.Column("document", Document, nullable=False, comment="JSON of the endpoint"),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Callback).decode


class CallbacksProjection:
    """Loads and writes endpoints. It comes before the projections whose rows deliveries need."""

    name = "callbacks"
    version = VERSION
    is_lasting = True
    tables = (callbacks,)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load all endpoints once, and require what deliveries to them change."""
        state = model.callbacks
        if not state.is_read:
            state.know(_all(connection, sa.literal(generation)))
        for endpoint in state.endpoints:
            if endpoint.url is not None:
                required.add_deliveries_to(endpoint.url)

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        state = model.callbacks
        changed = [state.rows[name] for name in sorted(state.changed)]
        state.changed.clear()
        return upserting(callbacks, changed, partial(_row, generation))


def _row(generation: int, callback: Callback) -> Row:
    return (generation, callback.name.encode(), _encode(callback))


def _all(connection: Connection, generation: sa.ColumnElement[int]) -> list[Callback]:
    query = sa.select(callbacks.c.document).where(callbacks.c.generation == generation)
    rows = connection.execute(query.order_by(callbacks.c.name))
    return [_decode(document) for (document,) in rows]


class CallbackQueries:
    """Queries one generation of the endpoints: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def all(self, connection: Connection) -> dict[CallbackName, Callback]:
        """Return all endpoints, by name, with what is left of those that were deleted."""
        return {one.name: one for one in _all(connection, self._generation)}
