"""The glossary of ARCHITECTURE.md, with an anchor and an entry of the search for each term."""

import re
from collections.abc import Iterator

from fairlog_site.documents import ROOT


def page() -> str:
    entries = [f"{term}\n  {meaning}\n" for term, meaning in terms()]
    return ":::{glossary}\n" + "\n".join(entries) + ":::\n"


def terms() -> Iterator[tuple[str, str]]:
    """Yield each term, without the star of Fairlog's own, and its meaning."""
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## Glossary\n")[2]
    for term, meaning in re.findall(r"^\| (?!term \||---)(.+?) \| (.+) \|$", section, re.MULTILINE):
        yield term.rstrip("*"), meaning
