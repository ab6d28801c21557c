"""The plan of a statement, as rows."""

from typing import Any

from sqlalchemy.engine import Connection


def plan_of(connection: Connection, statement: str, parameters: Any) -> list[dict[str, Any]]:
    """SQLite's `detail` says all; a server's rows have `table`, `type`, `key` and `Extra`."""
    is_sqlite = connection.dialect.name == "sqlite"
    # Without the format MySQL 9 would give a tree in one text.
    explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN FORMAT=TRADITIONAL"
    found = connection.exec_driver_sql(f"{explain} {statement}", parameters)
    return [dict(row) for row in found.mappings()]
