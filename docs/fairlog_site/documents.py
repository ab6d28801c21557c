"""Documents of the repository's root as pages, and links between documents as links of the site."""

import posixpath
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
# The pages that stand for documents and folders outside the folder `docs`, by path from the root.
_PAGES: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting-vulnerabilities.md",
    "docs/adr": "decisions.md",
}
_LINK: Final = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def root_document(name: str) -> str:
    """Return the text of a document in the root, with its links as from the folder `docs`."""

    def from_docs(link: re.Match[str]) -> str:
        return link[1] + posixpath.relpath(link[2], "docs")

    return _LINK.sub(from_docs, (ROOT / name).read_text())


def with_links_to_pages(text: str, page: str) -> str:
    """Let links to documents that have a page here lead to it."""
    folder = posixpath.dirname(f"docs/{page}")

    def to_page(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        found = _PAGES.get(target)
        return link[0] if found is None else link[1] + posixpath.relpath(f"docs/{found}", folder)

    return _LINK.sub(to_page, text)
