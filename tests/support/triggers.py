"""Triggers on Fairlog's tables, as somebody else may have left one."""

from sqlalchemy.engine import Connection


def refuse(connection: Connection, table: str, condition: str = "TRUE") -> None:
    """Refuse an INSERT by a trigger of the name `strange`."""
    signal = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"
    says_no = (
        f"WHEN {condition} BEGIN SELECT RAISE(ABORT, 'no'); END"
        if connection.dialect.name == "sqlite"
        else f"FOR EACH ROW IF {condition} THEN {signal}; END IF"
    )
    connection.exec_driver_sql(f"CREATE TRIGGER strange BEFORE INSERT ON {table} {says_no}")
