"""A plugin of pytest, which keeps the tests that use the shared server, and no other.

A test that starts and stops a server of its own starts this machine's MariaDB, not a node.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _is_on_the_node(item)]


def _is_on_the_node(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("backend") == "mariadb" and not (
        isinstance(item, pytest.Function) and "private_mariadb" in item.fixturenames
    )
