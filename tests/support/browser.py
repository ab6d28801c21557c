"""Debian's Chromium, driven by Playwright: pages that fail the test when they complain."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

ACTION_SECONDS_MAX = 10.0
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The name of a site whose owner makes it point to this machine.
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]
# What the browser says of a server that is away, which is what some tests are about.
_OF_THE_NETWORK = ("Failed to load resource", "net::ERR_")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Needs Chromium installed; FAIRLOG_TEST_CHROMIUM names another than the one on the PATH."""
    path = os.environ.get("FAIRLOG_TEST_CHROMIUM") or shutil.which("chromium")
    assert path is not None, "install chromium (Debian's package has this name)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


class Window:
    """One page of a browser on one server, and everything that it complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(ACTION_SECONDS_MAX * 1000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def go(self, path: str) -> Page:
        """Open a page, and wait until it is live."""
        self.page.goto(self.url + path)
        connection = self.page.locator("#connection")
        expect(connection).to_have_attribute("data-state", re.compile("live|still"))
        return self.page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(
            words in message.text for words in _OF_THE_NETWORK
        ):
            self.complaints.append(message.text)


@contextmanager
def window(
    browser: Browser,
    url: str,
    *,
    width: int = 1360,
    height: int = 860,
    theme: str = "light",
    has_scripts: bool = True,
    checks_certificates: bool = True,
) -> Iterator[Window]:
    """A page with a profile of its own. Raises at the end if it complained."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        java_script_enabled=has_scripts,
        ignore_https_errors=not checks_certificates,
    )
    opened = Window(context, url)
    try:
        yield opened
    finally:
        context.close()
    assert opened.complaints == []
