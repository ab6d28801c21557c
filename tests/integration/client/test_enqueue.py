"""Jobs by the outbox, in the transaction of the caller's own rows."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from adapters.log.outbox import outbox
from entrypoints.service.fairlog import Fairlog
from fairlog_client import InvalidArguments, Jobs, enqueue
from tests.integration.jobs.test_outbox import bodies_of, jobs, rows_of, take
from tests.support.core import service
from tests.support.outbox_program import connector


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(sa.String(50))


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service(database_url) as fairlog:
        yield fairlog


@pytest.fixture
def engine(fairlog: Fairlog) -> Iterator[sa.Engine]:
    engine = sa.create_engine(fairlog.database.url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_an_order_and_its_job_are_committed_together(fairlog: Fairlog, engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(id=17, item="tea"))
        enqueue(session, user_id="alice", kind="invoice", payload={"order": 17})
    take(fairlog)
    assert bodies_of(fairlog) == [{"order": 17}]
    with Session(engine) as session:
        assert session.get(Order, 17) is not None


def test_neither_is_there_after_a_rollback(fairlog: Fairlog, engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Order(id=17, item="tea"))
        enqueue(session, user_id="alice", kind="invoice")
        session.rollback()
    take(fairlog)
    assert jobs(fairlog) == []
    assert rows_of(fairlog, outbox) == []


def by_connection(url: str, put: Callable[[Any], None]) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        put(connection)
    engine.dispose()


def by_driver(url: str, put: Callable[[Any], None]) -> None:
    connect, _ = connector(url)
    connection = connect()
    put(connection)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("through", [by_connection, by_driver])
def test_every_field_arrives(
    fairlog: Fairlog, database_url: str, through: Callable[[str, Callable[[Any], None]], None]
) -> None:
    run_at = datetime(2126, 1, 31, 12, tzinfo=UTC)
    expires_at = datetime(2126, 2, 1, 12, tzinfo=UTC)
    through(
        database_url,
        lambda connection: enqueue(
            connection,
            user_id="alicé",
            kind="invoice",
            payload=["%s", ":name", "?", None, 1.5],
            idempotency_key="order-17",
            run_at=run_at,
            expires_at=expires_at,
            timeout_seconds=2.5,
            max_attempts=7,
            retry={"base_seconds": 30},
            priority=-4,
            resources=["shopify:b", "shopify:a"],
            callback="https://a.example/hook",
        ),
    )
    take(fairlog)
    [job] = jobs(fairlog)
    assert (job.user_id, job.kind, job.idempotency_key) == ("alicé", "invoice", "order-17")
    assert (job.run_at, job.expires_at) == (run_at, expires_at)
    assert (job.timeout_seconds, job.max_attempts, job.priority) == (2.5, 7, -4)
    assert (job.retry and job.retry.base_seconds) == 30.0
    assert job.resources == ("shopify:a", "shopify:b")
    assert job.callback == "https://a.example/hook"
    assert bodies_of(fairlog) == [["%s", ":name", "?", None, 1.5]]


def test_equal_jobs_are_one_if_they_are_deduplicated(fairlog: Fairlog, database_url: str) -> None:
    def put(connection: Any) -> None:
        for deduplicate in (False, False, True, True):
            enqueue(connection, user_id="alice", kind="echo", deduplicate=deduplicate)

    by_driver(database_url, put)
    take(fairlog)
    assert len(jobs(fairlog)) == 3


def test_a_task_is_enqueued_with_its_options(fairlog: Fairlog, database_url: str) -> None:
    tasks = Jobs()

    @tasks.task(kind="thumbnail", max_attempts=5)
    def thumbnail(path: str, size: int = 200) -> str:
        return f"{path} at {size}"

    by_driver(database_url, lambda connection: thumbnail.enqueue(connection, "alice", path="/1"))
    take(fairlog)
    [job] = jobs(fairlog)
    assert (job.kind, job.max_attempts) == ("thumbnail", 5)
    assert bodies_of(fairlog) == [{"path": "/1"}]


def test_what_is_no_connection_is_refused() -> None:
    class Neither:
        def cursor(self) -> None: ...

    with pytest.raises(InvalidArguments, match="needs a session"):
        enqueue(Neither(), user_id="alice", kind="echo")
    with pytest.raises(InvalidArguments, match="as JSON"):
        enqueue(Neither(), user_id="alice", kind="echo", payload=object())


def test_a_job_comes_after_others(fairlog: Fairlog, database_url: str) -> None:
    by_driver(database_url, lambda connection: enqueue(connection, user_id="alice", kind="echo"))
    take(fairlog)
    first = 2  # the id of the first job of a log

    def put(connection: Any) -> None:
        enqueue(connection, user_id="bob", kind="echo", after=[first], after_failure="cancel")
        enqueue(connection, user_id="bob", kind="echo", after=[10**9])

    by_driver(database_url, put)
    take(fairlog)
    _, second = jobs(fairlog)  # the other one is rejected
    assert (second.after, second.waits_for, second.after_failure) == ((first,), (first,), "cancel")
