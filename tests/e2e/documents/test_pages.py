"""The blocks of the documents do what the documents say, on the database that they are about."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import NewDatabase
from tests.support.blocks import Block, blocks
from tests.support.mariadb import MariaDB
from tests.support.repository import ROOT
from tests.support.terminals import Reader

pytestmark = pytest.mark.timeout(600)  # usual: 10 a page, 30 for the longest

# Pages that are read one after the other, in the same terminals.
TUTORIAL: Final = [f"docs/tutorial/{page}.md" for page in ("first-job", "own-handler", "mariadb")]
# Pages that are read on a new database each.
PAGES: Final = [
    "README.md",
    "docs/client.md",
    "docs/concepts/at-least-once.md",
    "docs/concepts/fairness.md",
    "docs/concepts/limits.md",
    "docs/concepts/log.md",
    "docs/how-to/investigate.md",
    "docs/how-to/keys.md",
    "docs/how-to/metrics.md",
    "docs/how-to/model-calls.md",
    "docs/how-to/nightly-exports.md",
    "docs/how-to/chains.md",
    "docs/how-to/push-workers.md",
    "docs/how-to/callbacks.md",
    "docs/how-to/schedules.md",
    "docs/how-to/verify-the-log.md",
    "docs/how-to/webhooks.md",
    "docs/security.md",
]
# Pages that make databases themselves, and so need a server of their own.
PAGES_WITH_SERVER: Final = [
    "docs/how-to/backup.md",
    "docs/how-to/deploys.md",
    "docs/how-to/mysql.md",
]
# The page that another test reads, and goes on from.
READ_ELSEWHERE: Final = {
    "docs/tutorial/own-application.md": "tests/e2e/documents/test_deployed_application.py"
}
# Blocks that other tests run: the document and the language, and the test.
RUN_ELSEWHERE: Final = {
    ("docs/handlers.md", "python"): "tests/unit/test_handler_document.py",
    ("docs/production.md", "sql"): "tests/integration/database/test_production_accounts.py",
    ("docs/reference/segments.md", "python"): "tests/integration/archive/test_segments.py",
    ("docs/transactional.md", "sql"): "tests/e2e/servers/test_outbox.py",
}
# The blocks that say why they are not run.
NOT_RUN: Final = {
    "docs/client.md": 2,
    "docs/concepts/fairness.md": 1,
    "docs/deployment.md": 4,
    "docs/how-to/verify-the-log.md": 1,
    "docs/reference/segments.md": 1,
    "docs/soak.md": 1,
    "docs/tutorial/own-application.md": 1,
}
OUTPUTS: Final = {"", "text"}  # languages of blocks that are no commands


def documents() -> Iterator[Path]:
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]):
        if path.name != "CHANGELOG.md":
            yield path


def commands(pages: Sequence[str]) -> Iterator[Block]:
    for page in pages:
        for block in blocks(ROOT / page):
            if block.not_run is None and (page, block.language) not in RUN_ELSEWHERE:
                yield block


def test_the_tutorial_leads_from_nothing_to_a_handler_on_mariadb_with_accounts(
    tmp_path: Path, private_mariadb: MariaDB
) -> None:
    with Reader(tmp_path, {}, server=private_mariadb) as reader:
        for block in commands(TUTORIAL):
            reader.follow(block)


# What a page says of a server is in PAGES_WITH_SERVER; the others are the same on each database.
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_does_what_it_says(
    page: str, new_database_url: NewDatabase, tmp_path: Path
) -> None:
    url = new_database_url()
    with Reader(tmp_path, {"FAIRLOG_DATABASE_URL": url}) as reader:
        for block in commands([page]):
            reader.follow(block)


@pytest.mark.parametrize("page", PAGES_WITH_SERVER)
def test_the_page_does_what_it_says_on_a_server_of_its_own(
    page: str, private_mariadb: MariaDB, tmp_path: Path
) -> None:
    with Reader(tmp_path, {}, server=private_mariadb) as reader:
        for block in commands([page]):
            reader.follow(block)


def test_every_block_is_run_or_says_why_not() -> None:
    read = {*TUTORIAL, *PAGES, *PAGES_WITH_SERVER, *READ_ELSEWHERE}
    neglected = [
        block.place
        for document in documents()
        for block in blocks(document)
        if (name := str(document.relative_to(ROOT))) not in read
        and block.not_run is None
        and block.language not in OUTPUTS
        and (name, block.language) not in RUN_ELSEWHERE
    ]
    assert neglected == []
    elsewhere = [*RUN_ELSEWHERE.values(), *READ_ELSEWHERE.values()]
    assert [test for test in elsewhere if not (ROOT / test).exists()] == []


def test_only_these_blocks_are_not_run_and_the_tests_that_they_name_exist() -> None:
    skipped = [
        (str(document.relative_to(ROOT)), block.not_run)
        for document in documents()
        for block in blocks(document)
        if block.not_run is not None
    ]
    assert Counter(document for document, _ in skipped) == NOT_RUN
    named = [path for _, reason in skipped for path in re.findall(r"tests/[\w/]+\.py", reason)]
    assert [path for path in named if not (ROOT / path).exists()] == []
