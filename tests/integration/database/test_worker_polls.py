"""The table of workers' polls, which servers share."""

from adapters.database.database import Database
from adapters.servers.worker_polls import StoredPoll, metadata, read_polls, replace_polls
from domain.language.identifiers import Kind, ServerId, WorkerId

NOON = 1_700_000_000_000_000


def test_the_polls_of_several_workers_are_stored(database: Database) -> None:
    polls = [StoredPoll(WorkerId(f"w{n}"), [Kind("echo")], NOON - n) for n in range(3)]
    with database.engine.begin() as connection:
        metadata.create_all(connection)
        replace_polls(connection, ServerId("a"), polls, NOON)
    with database.engine.begin() as connection:
        assert read_polls(connection) == polls
