"""Pages in a real browser: how long until one is live, and until it shows what was submitted."""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Final

from playwright.sync_api import Browser, Page

from tests.benchmarks.serving import BenchmarkServer
from tests.support.browser import window
from tests.support.server import submit

# What on a page changes with a submission.
CHANGING: Final[Mapping[str, str]] = {
    "/": "() => document.getElementById('count-queued').textContent",
    "/jobs": "() => document.querySelector('table.jobs tbody tr').id",
    "/audit": "() => document.querySelector('#events tr').id",
}

_MARK_LIVE: Final = """
new MutationObserver((_, observer) => {
  const state = document.getElementById("connection")?.dataset.state;
  if (state !== "live" && state !== "still") return;
  observer.disconnect();
  performance.mark("is-live");
}).observe(document, { subtree: true, childList: true, attributeFilter: ["data-state"] });
"""
_LIVE_MS: Final = "() => performance.getEntriesByName('is-live')[0].startTime"
_WATCH: Final = """
() => {
  const looked = %s;
  const all = { subtree: true, childList: true, characterData: true };
  const before = looked();
  window.changed = new Promise((tell) => {
    new MutationObserver((_, observer) => {
      if (looked() === before) return;
      observer.disconnect();
      tell(Date.now());
    }).observe(document.getElementById("live"), all);
  });
}
"""


def until_live(browser: Browser, server: BenchmarkServer, path: str, times: int) -> float:
    """Milliseconds from navigation until scripts run and the stream is open, with nothing cached;
    the median.
    """
    found = []
    for _ in range(times):
        with _opened(browser, server, path) as page:
            found.append(float(page.evaluate(_LIVE_MS)))
    return median(found)


def until_shown(browser: Browser, server: BenchmarkServer, path: str, times: int) -> float:
    """Milliseconds from sending a submission until an open page shows it; the median."""
    found: list[float] = []
    with _opened(browser, server, path) as page:
        for number in range(times):
            page.evaluate(_WATCH % CHANGING[path])
            sent = time.time()  # the browser's clock is the same
            submit(server.client, "watched", payload=[path, number, sent])
            shown: float = page.evaluate("() => window.changed")
            found.append(shown - sent * 1000)
            time.sleep(random.uniform(0.1, 1.1))  # no rhythm of ours
    return median(found)


@contextmanager
def _opened(browser: Browser, server: BenchmarkServer, path: str) -> Iterator[Page]:
    with window(browser, server.url) as opened:
        opened.page.add_init_script(_MARK_LIVE)
        yield opened.go(path)
