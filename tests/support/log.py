"""The log by itself, without a service."""

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from domain.decisions.ports import Head
from domain.language.events import Recorded
from domain.language.identifiers import JobId, UserId
from tests.support.stories import admitted, body


def append(
    log: SqlEventLog, database: Database, *happened: tuple[str, int | None], body_at: int = 0
) -> Head:
    """A batch of submissions by these users, each of this job, in a transaction of its own."""
    with database.write() as connection:
        head = log.lock_head(connection)
        recorded = [
            Recorded(
                head.position + n,
                head.now,
                None if job is None else JobId(job),
                admitted(UserId(user)),
            )
            for n, (user, job) in enumerate(happened, start=1)
        ]
        bodies = [(head.position + body_at, body(user).data) for user, _ in happened[:1] if body_at]
        new = log.append(connection, head, recorded, bodies).head
        log.move_head(connection, head, new)
    return new
