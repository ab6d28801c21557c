"""The promises of the proxy that injects faults to the tests that use it."""

import time

import pymysql
import pytest
import sqlalchemy as sa

from tests.support.databases import DatabaseServer
from tests.support.fault_proxy import FaultProxy


def test_a_statement_fails_with_the_error_that_was_asked_for(mariadb: DatabaseServer) -> None:
    url = mariadb.create_database()
    with FaultProxy(url) as proxy:
        engine = sa.create_engine(proxy.url)
        with engine.connect() as connection:
            proxy.fail("^COMMIT", 1213)
            proxy.fail("FROM nowhere", 1021, times=2)
            for _ in range(2):
                with pytest.raises(sa.exc.OperationalError) as raised:
                    connection.execute(sa.text("SELECT 1 FROM nowhere"))
                assert raised.value.orig.args == (1021, "injected")  # type: ignore[union-attr]  # the driver's own
            with pytest.raises(sa.exc.ProgrammingError):  # passed on: there is no such table
                connection.execute(sa.text("SELECT 1 FROM nowhere"))
            with pytest.raises(pymysql.err.OperationalError) as at_commit:
                connection.connection.driver_connection.commit()  # type: ignore[union-attr]  # it is connected
            assert at_commit.value.args[0] == 1213
            assert connection.execute(sa.text("SELECT 7")).scalar_one() == 7
            assert dict(proxy.failed) == {("SELECT", 1021): 2, ("COMMIT", 1213): 1}
        engine.dispose()
    mariadb.drop_database(url)


def test_a_cut_ends_every_connection_and_new_ones_are_let_through(mariadb: DatabaseServer) -> None:
    url = mariadb.create_database()
    with FaultProxy(url) as proxy:
        engine = sa.create_engine(proxy.url)
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
            proxy.cut()
            with pytest.raises(sa.exc.OperationalError):
                connection.execute(sa.text("SELECT 1"))
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        engine.dispose()
    mariadb.drop_database(url)


def test_a_slowed_database_answers_late_until_it_has_recovered(mariadb: DatabaseServer) -> None:
    url = mariadb.create_database()
    with FaultProxy(url) as proxy:
        engine = sa.create_engine(proxy.url)
        with engine.connect() as connection:
            proxy.slow(0.2)
            began = time.monotonic()
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
            assert time.monotonic() - began >= 0.2
            proxy.recover()
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        engine.dispose()
    mariadb.drop_database(url)
