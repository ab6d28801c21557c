"""The documentation builds without a warning, and its links and its search lead to its pages."""

import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os.path import normpath
from pathlib import Path
from threading import Thread
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import expect

from adapters.settings import FIELDS
from domain.language.events import EVENT_TYPES
from tests.support.browser import chromium
from tests.support.repository import ROOT
from tests.support.site import Links, build_site

_TERM: Final = re.compile(r"^\| (?!term \||---)(.+?)\*? \|", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_site(folder)
    return folder


@pytest.fixture
def site_url(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def glossary_terms() -> list[str]:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## Glossary\n")[2]
    return _TERM.findall(section)


def test_every_link_within_the_site_leads_to_a_page_and_a_place_on_it(site: Path) -> None:
    links = {page: Links(page) for page in pages(site)}
    broken = []
    for page, found in links.items():
        for target in found.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = Path(normpath(page.parent / unquote(parts.path))) if parts.path else page
            anchors = links[file].anchors if file in links else set()
            if not file.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append((str(page.relative_to(site)), target))
    assert len(links) > 40
    assert broken == []


def test_every_link_to_another_site_is_a_complete_address(site: Path) -> None:
    addresses = {
        target
        for page in pages(site)
        for target in Links(page).targets
        if urlsplit(target).scheme not in {"", "data"} or urlsplit(target).netloc
    }
    assert addresses
    for address in sorted(addresses):
        parts = urlsplit(address)
        assert (parts.scheme in {"http", "https"} and parts.hostname) or parts.scheme == "mailto", (
            address
        )


def test_every_page_can_be_reached_from_the_first_one(site: Path) -> None:
    reached: set[Path] = set()
    waiting = [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".html":
            continue
        reached.add(page)
        paths = [urlsplit(one) for one in Links(page).targets]
        waiting += [(page.parent / unquote(one.path)).resolve() for one in paths if not one.scheme]
    assert [page.name for page in pages(site) if page not in reached] == []


def test_the_reference_has_every_setting_and_every_event(site: Path) -> None:
    settings = (site / "reference/settings.html").read_text()
    for name in FIELDS:
        assert f'id="envvar-FAIRLOG_{name.upper()}"' in settings
    events = Links(site / "reference/events.html").anchors
    assert {f"events-{name.lower()}" for name in EVENT_TYPES} <= events


def test_a_search_for_each_term_of_the_glossary_finds_it(site_url: str) -> None:
    terms = glossary_terms()
    assert len(terms) > 30
    with chromium() as browser:
        page = browser.new_page()
        for term in terms:
            page.goto(f"{site_url}/search.html?q={term.replace(' ', '+')}")
            first = page.locator("#search-results li a").first
            expect(first).to_have_attribute(
                "href", f"concepts/glossary.html#term-{term.replace(' ', '-')}"
            )
