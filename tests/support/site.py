"""The documentation, built as `make docs` builds it."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from tests.support.repository import ROOT


def build_site(folder: Path) -> None:
    """Build the site in `folder`. A warning fails the test."""
    built = subprocess.run(
        [
            Path(sys.executable).with_name("sphinx-build"),
            *("--quiet", "--nitpicky", "--fail-on-warning", "--keep-going"),
            *("--doctree-dir", folder / "doctrees"),
            ROOT / "docs",
            folder,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, ""), built.stdout


class Links(HTMLParser):
    """The targets of links of a page, and the names in it that links may lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.anchors.add(value)
            elif name in {"href", "src"} and tag != "use":
                self.targets.append(value)
