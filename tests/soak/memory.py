"""The memory of a server over the time of a soak."""

import contextlib
import threading
from typing import Final

from tests.soak.faults import rss_bytes
from tests.support.server import FairlogServer, ServerFailed

_SAMPLE_SECONDS: Final = 5


class Memory:
    """Samples what a server holds that lives as long as the soak."""

    def __init__(self, server: FairlogServer) -> None:
        self._samples: list[int] = []  # bytes
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def growth(self) -> float:
        """Return the median of the last fifth as a multiple of that of the second fifth."""
        fifth = max(1, len(self._samples) // 5)
        early, late = self._samples[fifth : 2 * fifth], self._samples[-fifth:]
        return _median(late) / max(1, _median(early))

    def _sample(self) -> None:
        while not self._stopping.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(ServerFailed):
                self._samples.append(rss_bytes(self._server.pid))


def _median(numbers: list[int]) -> int:
    return sorted(numbers)[len(numbers) // 2] if numbers else 0
