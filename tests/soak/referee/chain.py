"""The order of a log: positions, times and hashes."""

from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, hash_after


class Chain:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._position = 0
        self._at = 0
        self._hash = bytes(32)

    def see(self, event: Event) -> None:
        check, before = self._findings.check, self._position
        check(Rule.POSITIONS, event.position == before + 1, event.position, "follows", before)
        check(Rule.TIME, event.at >= self._at, "at", event.position)
        check(Rule.CHAIN, event.hash == hash_after(self._hash, event), "at", event.position)
        self._position, self._at, self._hash = event.position, event.at, event.hash
