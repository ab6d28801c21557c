import ast
import inspect
from pathlib import Path
from types import FunctionType
from typing import Final

import pytest
from pymysql.connections import Connection
from pymysql.cursors import RE_INSERT_VALUES, Cursor

_SEAM: Final = Path("adapters/database/mysql_driver.py")
_PRIVATE_ATTRIBUTES: Final = ("_next_seq_id", "_read_timeout", "_sock")
_PRIVATE_METHODS: Final[dict[str, tuple[type, list[str]]]] = {
    "_execute_command": (Connection, ["self", "command", "sql"]),
    "_create_ssl_ctx": (Connection, ["self", "sslp"]),
    "_read_packet": (Connection, ["self", "packet_type"]),
    "_read_ok_packet": (Connection, ["self"]),
    "_get_db": (Cursor, ["self"]),
    "_mogrify": (Cursor, ["self", "query", "args"]),
}


@pytest.mark.parametrize("name", _PRIVATE_METHODS)
def test_pymysql_still_has_each_private_method_that_fairlog_uses(name: str) -> None:
    owner, parameters = _PRIVATE_METHODS[name]
    method = getattr(owner, name, None)
    assert method is not None, f"PyMySQL has no {owner.__name__}.{name} any more: see {_SEAM}"
    found = list(inspect.signature(method).parameters)
    assert found == parameters, f"PyMySQL's {owner.__name__}.{name} now takes {found}: see {_SEAM}"


@pytest.mark.parametrize("name", _PRIVATE_ATTRIBUTES)
def test_pymysql_still_reads_each_private_attribute_that_fairlog_sets(name: str) -> None:
    names = _names_used_by(Connection._read_packet)
    assert name in names, f"PyMySQL no longer uses {name} to read a packet: see {_SEAM}"


def test_pymysql_still_renders_statements_by_the_method_that_fairlog_overrides() -> None:
    for method in (Cursor.execute, Cursor.mogrify):
        assert "_mogrify" in _names_used_by(method), (
            f"PyMySQL's Cursor.{method.__name__} no longer calls _mogrify: see {_SEAM}"
        )


def test_pymysql_still_makes_its_tls_context_by_the_method_that_fairlog_overrides() -> None:
    assert "_create_ssl_ctx" in _names_used_by(Connection.__init__), (
        f"PyMySQL no longer calls _create_ssl_ctx: see {_SEAM}"
    )


def test_pymysql_still_splits_an_insert_around_its_placeholders() -> None:
    found = RE_INSERT_VALUES.match("INSERT INTO jobs (id) VALUES (%s) ON DUPLICATE KEY UPDATE id=1")
    assert found is not None
    assert found.group(1, 2, 3) == (
        "INSERT INTO jobs (id) VALUES ",
        "(%s)",
        " ON DUPLICATE KEY UPDATE id=1",
    ), "PyMySQL's RE_INSERT_VALUES has other groups: see adapters/database/mysql_pipeline.py"


def test_private_names_of_pymysql_are_used_in_one_module() -> None:
    private = {*_PRIVATE_METHODS, *_PRIVATE_ATTRIBUTES}
    private |= {
        name
        for owner in (Connection, Cursor)
        for name in vars(owner)
        if name.startswith("_") and not name.startswith("__")
    }
    root = Path(__file__).parents[3]
    for path in sorted((root / "adapters" / "database").glob("*.py")):
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        if path == root / _SEAM:
            expected = {*_PRIVATE_METHODS, *_PRIVATE_ATTRIBUTES}
            assert used & private == expected, f"list in this test what {_SEAM} uses"
        else:
            assert not used & private, f"{path.name} uses {used & private}: only {_SEAM} may"


def _names_used_by(method: object) -> set[str]:
    assert isinstance(method, FunctionType)
    return set(method.__code__.co_names)
