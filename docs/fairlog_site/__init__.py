"""The Sphinx extension of this site: pages made from the code, and blocks that are not run.

A page in `GENERATED` has an introduction in its file, to which the text from the code is added when
the page is read. So no copy of it exists that could differ from the code.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sphinx.application import Sphinx

from fairlog_site import api, commands, documents, events, glossary, metrics, settings
from fairlog_site.not_run import NotRun

GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "reference/settings": settings.page,
    "reference/api": api.page,
    "reference/cli": commands.page,
    "reference/events": events.page,
    "reference/metrics": metrics.page,
    "concepts/glossary": glossary.page,
    "architecture": lambda: documents.root_document("ARCHITECTURE.md"),
    "contributing": lambda: documents.root_document("CONTRIBUTING.md"),
    "changelog": lambda: documents.root_document("CHANGELOG.md"),
    "reporting-vulnerabilities": lambda: documents.root_document("SECURITY.md"),
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension; Sphinx calls this."""
    app.connect("source-read", _complete)
    app.add_directive("not-run", NotRun)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _complete(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the generated text to a page, and let links to documents of the root lead to pages."""
    if generate := GENERATED.get(page):
        source[0] = f"{source[0].rstrip()}\n\n{generate()}"
    source[0] = documents.with_links_to_pages(source[0], page)
