import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from adapters.database.database import Database
from adapters.database.grants import may_drop
from adapters.doctor import (
    DoctorFinding,
    Level,
    character_set,
    examine,
    isolation,
    server_version,
    sqlite_version,
    time_zone,
    triggers,
    unsafe_settings,
)
from adapters.log.schema import TriggerFault
from tests.support.history import Intruder, service
from tests.support.mariadb import MariaDB


@pytest.fixture
def careless_server() -> Iterator[MariaDB]:
    """All that can be wrong with a server's options at once."""
    with MariaDB(
        [
            "--log-bin",
            "--sync-binlog=0",
            "--innodb-flush-log-at-trx-commit=2",
            "--max-allowed-packet=1M",
            "--sysdate-is-now",
        ]
    ) as server:
        yield server


FAULTS = {Level.WARNING, Level.ERROR}


def examined(url: str) -> dict[str, DoctorFinding]:
    database = Database(url)
    findings = {finding.check: finding for finding in examine(database)}
    database.close()
    assert all(bool(one.mend) == (one.level in FAULTS) for one in findings.values()), findings
    return findings


def wrong(findings: dict[str, DoctorFinding]) -> dict[str, Level]:
    return {name: one.level for name, one in findings.items() if one.level in FAULTS}


def mend(finding: DoctorFinding) -> str:
    assert finding.mend is not None
    return finding.mend


def unsafe(url: str) -> list[str]:
    database = Database(url)
    found = [finding.check for finding in unsafe_settings(database)]
    database.close()
    return found


def test_a_database_as_we_make_it_has_nothing_wrong_but_the_rights_of_a_developer(
    database_url: str,
) -> None:
    with service(database_url):
        findings = examined(database_url)
        assert set(wrong(findings)) <= {"rights on events"}
        assert unsafe(database_url) == []
    if not database_url.startswith("sqlite"):
        assert "UPDATE, DELETE, DROP" in findings["rights on events"].found
        assert len(findings) == 14


def test_an_empty_database_is_to_be_migrated(database_url: str) -> None:
    findings = examined(database_url)
    assert set(wrong(findings).values()) == {Level.WARNING}
    assert [mend(one) for one in findings.values() if one.mend] == ["run `fairlog migrate`"]


def test_missing_triggers_are_found(database_url: str) -> None:
    with service(database_url) as (fairlog, _):
        Intruder(fairlog).drop_triggers()
        found = examined(database_url)["append-only"]
        assert found.level is Level.WARNING
        assert (
            "the trigger events_no_update is missing; the trigger events_no_delete" in found.found
        )


def test_every_wrong_option_of_a_server_is_found(careless_server: MariaDB) -> None:
    url = careless_server.create_database()
    assert unsafe(url) == ["flush at commit", "binary log"]
    with service(url):
        findings = examined(url)
    assert wrong(findings) == {
        "flush at commit": Level.ERROR,
        "binary log": Level.ERROR,
        "clock": Level.ERROR,
        "packet size": Level.ERROR,
        "append-only": Level.WARNING,  # an account without SUPER may not, under a binary log
        "rights on events": Level.WARNING,
    }
    assert "log_bin_trust_function_creators" in mend(findings["append-only"])


def test_a_production_account_is_told_apart_from_one_that_may_too_little(
    private_mariadb: MariaDB,
) -> None:
    url = private_mariadb.create_database()
    name = make_url(url).database
    grants = {
        "production": {
            "events": "SELECT, INSERT",
            "bodies": "SELECT, INSERT",
            "log_head": "SELECT, UPDATE (position, hash, recorded_at, epoch, saved)",
            "log_snapshot": "SELECT",
            "log_tiles": "SELECT",
            "alembic_version": "SELECT",
        },
        "too_little": {
            "events": "SELECT",
            "bodies": "SELECT, INSERT",
            "log_head": "SELECT",
            "alembic_version": "SELECT",
        },
    }
    with service(url):
        pass
    with private_mariadb.connect() as connection, connection.cursor() as cursor:
        for account, tables in grants.items():
            cursor.execute(f"CREATE USER {account}@'127.0.0.1' IDENTIFIED BY 'secret'")
            for table, rights in tables.items():
                cursor.execute(f"GRANT {rights} ON {name}.{table} TO {account}@'127.0.0.1'")
    as_account = make_url(url).set(password="secret")
    findings = {
        account: examined(as_account.set(username=account).render_as_string(hide_password=False))
        for account in grants
    }
    assert wrong(findings["production"]) == {}
    assert findings["too_little"]["rights"].level is Level.ERROR
    assert findings["too_little"]["rights"].found == (
        "the account lacks SELECT and INSERT on events, UPDATE on log_head"
    )
    advice = mend(findings["too_little"]["rights"])
    for table, rights in grants["production"].items():
        assert table in advice
        assert rights in advice


def test_a_table_without_transactions_is_found(private_mariadb: MariaDB) -> None:
    url = private_mariadb.create_database()
    with service(url):
        with private_mariadb.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {make_url(url).database}.bodies ENGINE = MyISAM")
        assert "bodies (MyISAM)" in examined(url)["engine"].found


def test_an_sqlite_file_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    assert examined(url)["file"].level is Level.WARNING
    assert not (tmp_path / "none.db").exists()
    nowhere = f"sqlite:///{tmp_path / 'folder' / 'none.db'}"
    assert "there is no folder" in examined(nowhere)["file"].found


def test_an_old_server_is_found() -> None:
    for text in ("10.5.8-MariaDB", "5.7.44-log"):
        assert server_version(text).level is Level.WARNING
    for text in ("10.11.19-MariaDB-0+deb12u1", "11.4.2-MariaDB", "8.4.0", "8.0.11-TiDB-v8.5.0"):
        assert server_version(text).level is Level.OK


def test_an_old_sqlite_is_found() -> None:
    assert sqlite_version(sqlite3.sqlite_version_info).level is Level.OK
    assert sqlite_version((3, 34, 1)).level is Level.ERROR


def test_a_proxy_that_changes_our_sessions_is_found() -> None:
    assert isolation({"transaction_isolation": "REPEATABLE-READ"}).level is Level.ERROR
    assert isolation({"tx_isolation": "READ-COMMITTED"}).level is Level.OK
    assert character_set({"character_set_client": "latin1"}).level is Level.ERROR
    assert time_zone({"time_zone": "SYSTEM"}).level is Level.ERROR


def test_missing_triggers_under_a_binary_log_are_mended_by_an_option_first() -> None:
    missing = {"events_no_update": TriggerFault.MISSING}
    assert "log_bin_trust" in mend(triggers(missing, {"log_bin": "ON"}))
    trusting = {"log_bin": "ON", "log_bin_trust_function_creators": "ON"}
    assert "log_bin_trust" not in mend(triggers(missing, trusting))


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `a`@`%` WITH GRANT OPTION", True),
        ("GRANT SELECT, INSERT, DROP ON `fairlog`.* TO `a`@`%`", True),
        (r"GRANT ALL PRIVILEGES ON `fair\_%`.* TO `a`@`%`", False),
        ("GRANT ALL PRIVILEGES ON `fair%`.* TO `a`@`%`", True),
        ("GRANT ALL PRIVILEGES ON `fairlo_`.* TO `a`@`%`", True),
        ("GRANT DROP ON `fairlog`.`events` TO `a`@`%`", True),
        ("GRANT DROP ON `fairlog`.`jobs_v6` TO `a`@`%`", False),
        ("GRANT DROP ON `other`.* TO `a`@`%`", False),
        ("GRANT DROP ROLE, SELECT ON *.* TO `a`@`%`", False),
        ("GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*DROP ON'", False),
        ("GRANT `role` TO `a`@`%`", False),
    ],
)
def test_the_right_to_drop_is_read_from_grants(grant: str, *, expected: bool) -> None:
    assert may_drop([grant], "fairlog", "events") is expected
