"""The reader of documents notices when a page is wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.blocks import Block, blocks
from tests.support.repository import ROOT
from tests.support.terminals import Reader


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path, {}) as one:
        yield one


def block(language: str, text: str) -> Block:
    return Block(ROOT / "README.md", 1, language, text)


def test_a_command_that_fails_is_noticed(reader: Reader) -> None:
    with pytest.raises(AssertionError, match=r"README\.md:1: exit code 3"):
        reader.follow(block("sh", "(exit 3)\necho done"))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        reader.follow(block("python", "1 / 0"))


def test_another_output_than_the_page_shows_is_noticed(reader: Reader) -> None:
    reader.follow(block("console", "$ echo 'one   two 3'; echo; echo end\none two …\n…\nend"))
    with pytest.raises(AssertionError, match="instead of:\none two"):
        reader.follow(block("console", "$ echo one three\none two"))


def test_a_terminal_keeps_its_variables_and_its_folder(reader: Reader) -> None:
    reader.follow(block("sh", "mkdir inner\ncd inner\nword='a b'"))
    reader.follow(block("console", '$ echo "$word in $(basename "$PWD")"\na b in inner'))
    with pytest.raises(AssertionError, match="unbound variable"):
        reader.follow(block("sh", '# Terminal 2\necho "$word"'))


def test_a_program_that_runs_until_ctrl_c_is_ended_by_it(reader: Reader) -> None:
    waiting = "echo listening; exec sleep 600    # until Ctrl-C"
    reader.follow(block("sh", waiting))
    reader.follow(block("sh", "echo free"))
    with pytest.raises(AssertionError, match="exit code 1"):
        reader.follow(block("sh", "false    # until Ctrl-C"))


def test_a_file_is_written_where_the_page_says(reader: Reader) -> None:
    reader.follow(block("python", "# inner/words.py\nWORD = 'seven'"))
    reader.follow(block("python", "from inner.words import WORD\nassert WORD == 'seven'"))
    with pytest.raises(AssertionError, match="a block of sql needs a file name"):
        reader.follow(block("sql", "SELECT 1"))


def test_a_block_that_is_not_run_has_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```{not-run} sh\n:reason: It is too large.\nmake all\n```\n")
    [found] = blocks(page)
    assert (found.language, found.not_run) == ("sh", "It is too large.")
    page.write_text("```{not-run} sh\nmake all\n```\n")
    with pytest.raises(AssertionError, match="needs a reason"):
        list(blocks(page))
