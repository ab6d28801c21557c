"""The cancellations and retries of API keys whose number per window is bounded.

They are counted in memory, by each server for itself: the bound keeps a client from disturbing
others, and is not a quota that somebody pays for.
"""

from domain.access.keys import ApiKey
from domain.language.errors import FairlogError
from domain.language.identifiers import KeyName


class TooManyChanges(FairlogError):
    """An API key has used up the changes of its window."""

    def __init__(self, name: KeyName, most: int, seconds: float) -> None:
        super().__init__(
            f"The key {name!r} may cancel and retry {most:,} jobs in a window; try again later."
        )
        self.seconds = seconds  # until the window ends


class ChangeLimits:
    """The counts of one process. `window_seconds` is the length of a window."""

    def __init__(self, window_seconds: int) -> None:
        self._window_micros = window_seconds * 1_000_000
        self._window = 0  # number of the current window
        self._counts: dict[KeyName, int] = {}

    def count(self, key: ApiKey, now_micros: int) -> None:
        """Count a change. Raises `TooManyChanges`."""
        most = key.created.changes_max
        if most is None:
            return
        window, passed = divmod(now_micros, self._window_micros)
        if window != self._window:
            self._window, self._counts = window, {}
        count = self._counts.get(key.name, 0)
        if count >= most:
            raise TooManyChanges(key.name, most, (self._window_micros - passed) / 1e6)
        self._counts[key.name] = count + 1
