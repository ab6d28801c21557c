"""The documents name files and pages that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != "CHANGELOG.md"
)
DECISIONS: Final = sorted(ROOT.glob("docs/adr/*.md"))
_TREES: Final = ("domain", "adapters", "projections", "entrypoints", "tests", "docs", "deploy")
_NAMED_FILE: Final = re.compile(rf"`((?:{'|'.join(_TREES)})/[\w/.-]*\w)`")
_LINK: Final = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_relative)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    names: Iterator[str] = iter(_NAMED_FILE.findall(document.read_text()))
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_relative)
def test_every_link_between_documents_resolves(document: Path) -> None:
    links: Iterator[str] = iter(_LINK.findall(document.read_text()))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_decisions_are_numbered_without_gaps_in_file_name_and_title() -> None:
    for number, page in enumerate(DECISIONS, start=1):
        assert page.name.startswith(f"{number:04d}-")
        assert page.read_text().startswith(f"# {number}. ")
