"""Every column of every table of ours, changed by hand in turn, is found by `fairlog verify`.

The cases come from the tables themselves, so a new column that nothing checks fails here. So does a
table that is in the database and in none of the lists.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import sqlalchemy as sa

from adapters.log.tables import log_head, metadata
from adapters.settings import Settings
from domain.language.commands import SaveProjections, SubmitJob
from domain.language.errors import FairlogError
from entrypoints.composition import compose, projection_tables
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verification import verify_log
from projections.following import snapshots
from projections.verify.findings import Difference, Finding
from tests.conftest import NewDatabase
from tests.support.history import ALICE, ECHO, Intruder, do, service_with_history
from tests.support.stories import body

# Tables that can neither be derived from the log nor held against anything, and why.
EXEMPT: Final[Mapping[str, str]] = {
    "alembic_version": "the migration tool's own; test_cli.py shows what a wrong one comes to",
    "log_snapshot": "empty until a part is archived; changed in tests/integration/archive",
    "log_tiles": "empty until a part is archived; changed in tests/integration/archive",
    "lost_events": "what servers report for an operator: no part of the log, free to be dropped",
    "live_servers": "leases of the processes that run now: no part of the log, free to be dropped",
    "dashboard_sessions": "who is logged in: no part of the log, free to be dropped",
    "worker_polls": "when workers polled last: no part of the log, free to be dropped",
    "outbox": "submissions that are not in the log yet: the user's own data",
    "outbox_rejected": "rows that could not be jobs: the user's own data",
    "empty_claims": "claims without jobs, for ten minutes: no part of the log, free to be dropped",
}


def _tables() -> list[sa.Table]:
    fairlog = compose(Settings())  # opens nothing
    tables = [one for some in projection_tables(fairlog).values() for one in some]
    fairlog.close()
    return [*metadata.sorted_tables, *tables]


TABLES: Final = [table for table in _tables() if table.name not in EXEMPT]
COLUMNS: Final = [
    pytest.param(column, id=f"{table.name}.{column.name}")
    for table in TABLES
    for column in table.columns
]


@pytest.fixture(scope="module")
def fairlog(new_database_url: NewDatabase) -> Iterator[Fairlog]:
    """A log in which everything happened, with snapshots of it, and all that follows it level."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "SPACING", 16)
        with service_with_history(new_database_url()) as (fairlog, _):
            do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body("waiting")))
            do(fairlog, SaveProjections())
            for projector in fairlog.projector_runner.projectors:
                while projector.step():
                    pass
            yield fairlog


def report_of(fairlog: Fairlog) -> str:
    """Return the output of `fairlog verify`; empty if nothing is wrong."""
    found: list[Finding | Difference] = []
    try:
        verified = verify_log(fairlog, found.append, lambda _done, _total: None)
    except FairlogError as error:
        return str(error)
    assert verified.is_clean == (not found)
    return "\n".join(map(str, found))


def test_every_table_is_checked_or_exempt(fairlog: Fairlog) -> None:
    with fairlog.database.read() as connection:
        present = set(sa.inspect(connection).get_table_names())
    assert present == {table.name for table in TABLES} | EXEMPT.keys()


def test_nothing_is_found_where_nothing_was_changed(fairlog: Fairlog) -> None:
    assert report_of(fairlog) == ""


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_was_changed_is_found_and_named(
    fairlog: Fairlog, column: "sa.Column[Any]"
) -> None:
    table = column.table
    assert isinstance(table, sa.Table)
    for by in _steps(column):
        before, after = _change(fairlog, table, column, by)
        found = report_of(fairlog)
        assert found
        if column is not log_head.c.saved or by > 0:  # else rows are found that are ahead of it
            assert _names(table) in found, f"{column.name} is {after[column.name]!r}"
        _write(fairlog, table, after, before)


def _names(table: sa.Table) -> str:
    """A word of each finding about the table."""
    if table.name in {"events", "bodies"}:
        return "event "  # and its position
    return {"log_head": "head", "projection_registry": "projection"}.get(table.name, table.name)


def _steps(column: "sa.Column[Any]") -> tuple[int, ...]:
    """Return the amounts to change a number by: enough for a key to equal no other key, and either
    way where order matters, as what has been saved may be behind the log but not ahead of it.
    """
    if column.primary_key:
        return (1000,)
    return (1, -1) if column.table is log_head else (1,)


def _change(
    fairlog: Fairlog, table: sa.Table, column: "sa.Column[Any]", by: int
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A row in the middle of the table, as it was and as it is now."""
    keys = list(table.primary_key.columns)
    with fairlog.database.read() as connection:
        rows = connection.execute(sa.select(table).order_by(*keys)).mappings().all()
    assert rows, f"nothing is stored in {table.name}: let it happen in tell_everything()"
    before = dict(rows[len(rows) // 2])
    after = before | {column.name: _another(column, before[column.name], by)}
    _write(fairlog, table, before, after)
    return before, after


def _write(
    fairlog: Fairlog, table: sa.Table, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    keys = [key == before[key.name] for key in table.primary_key.columns]
    Intruder(fairlog).run(table.update().where(*keys).values(**after))


def _another(column: "sa.Column[Any]", value: Any, by: int) -> Any:
    """A value of the column's type that it does not have; `by` tells it from others."""
    if isinstance(column.type, sa.Integer):
        return 7 if value is None else value + by
    if isinstance(column.type, sa.LargeBinary):
        return bytes([value[0] ^ by & 255]) + value[1:] if value else b"x" * 8
    assert isinstance(column.type, sa.String), column
    return "x" if value is None else f"{value}x"
