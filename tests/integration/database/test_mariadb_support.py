import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, inspect, make_url, text
from sqlalchemy.exc import DatabaseError

from tests.conftest import NewDatabase
from tests.support.databases import DatabaseServer
from tests.support.mariadb import MariaDB, ServerFailed


def run(url: str, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def numbers(url: str) -> list[int]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT n FROM numbers ORDER BY n")))


CREATE = "CREATE TABLE numbers (n INTEGER PRIMARY KEY)"


@pytest.mark.parametrize("turn", ["first", "second"])
def test_every_test_gets_an_empty_database(database_url: str, turn: str) -> None:
    assert inspect(create_engine(database_url, poolclass=NullPool)).get_table_names() == []
    run(database_url, CREATE, "INSERT INTO numbers VALUES (1)")
    assert numbers(database_url) == [1], turn


@settings(max_examples=5)
@given(number=st.integers(0, 100))
def test_every_example_can_have_an_empty_database(
    new_database_url: NewDatabase, number: int
) -> None:
    url = new_database_url()
    run(url, CREATE, f"INSERT INTO numbers VALUES ({number})")
    assert numbers(url) == [number]
    new_database_url.drop(url)


def test_a_database_is_dropped_while_somebody_holds_a_transaction_in_it(
    mariadb: DatabaseServer,
) -> None:
    url = mariadb.create_database()
    run(url, CREATE)
    with create_engine(url, poolclass=NullPool).connect() as holder:
        holder.execute(text("INSERT INTO numbers VALUES (1)"))
        mariadb.drop_database(url)
        holder.invalidate()
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        assert (make_url(url).database,) not in cursor.fetchall()


def test_a_server_of_ours_is_as_durable_as_production_and_takes_16_mib(
    private_mariadb: MariaDB,
) -> None:
    with private_mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@innodb_flush_log_at_trx_commit, @@max_allowed_packet")
        assert cursor.fetchone() == (1, 16 * 1024**2)


def test_the_account_of_a_url_may_do_all_in_its_database_and_nothing_to_the_server(
    private_mariadb: MariaDB,
) -> None:
    url = private_mariadb.create_database()
    run(url, CREATE, "DROP TABLE numbers")
    with pytest.raises(DatabaseError, match="1227"):
        run(url, "SET GLOBAL max_connections = 10")


def test_stopped_and_started_again_it_has_its_data_at_the_same_address(
    private_mariadb: MariaDB,
) -> None:
    url = private_mariadb.create_database()
    run(url, CREATE, "INSERT INTO numbers VALUES (1)")
    private_mariadb.stop()
    with pytest.raises(DatabaseError, match="2003"):
        numbers(url)
    private_mariadb.start()
    assert numbers(url) == [1]


def test_killed_it_has_what_was_committed(private_mariadb: MariaDB) -> None:
    url = private_mariadb.create_database()
    run(url, CREATE, "INSERT INTO numbers VALUES (1)")
    private_mariadb.kill()
    private_mariadb.start()
    assert numbers(url) == [1]


def test_paused_it_answers_nobody_and_resumed_it_goes_on(private_mariadb: MariaDB) -> None:
    url = private_mariadb.create_database()
    run(url, CREATE)
    private_mariadb.pause()
    with pytest.raises(DatabaseError, match="timed out"):
        run(f"{url}?read_timeout=1", "INSERT INTO numbers VALUES (1)")
    private_mariadb.resume()
    run(url, "INSERT INTO numbers VALUES (2)")
    assert 2 in numbers(url)


def test_paused_it_can_be_stopped(private_mariadb: MariaDB) -> None:
    private_mariadb.pause()
    private_mariadb.stop()
    with pytest.raises(ServerFailed, match="does not run"):
        private_mariadb.stop()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = MariaDB(options=["--no-such-option"])
    with pytest.raises(ServerFailed, match="unknown option '--no-such-option'"), server:
        pass
    assert not server.socket.parent.exists()
