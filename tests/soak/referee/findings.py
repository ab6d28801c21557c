"""The rules by name, how often each was checked, and what broke one."""

from collections import Counter
from enum import StrEnum
from typing import Final

SHOWN_MAX: Final = 5  # examples of each broken rule


class Rule(StrEnum):
    """A rule, as the report names it."""

    POSITIONS = "positions run from 1 without gaps"
    TIME = "the log's time never goes back"
    CHAIN = "each hash follows from the one before it and from its event"
    HEAD = "the head row names the last event and its hash"
    SEGMENTS = "each segment is the file that the log names, and follows the one before it"
    SUBMITTED = "an answered submission is in the log with its user, kind, payload and API key"
    KEY = "an idempotency key makes one job"
    ADMISSION = "each job was admitted by the event before it"
    OVER = "no window admits more than its limit"
    UNDER = "nobody is refused while the window has room"
    COUNTED = "refusals that were answered are counted in the log"
    START = "an attempt has one start, which follows the attempt before it"
    OUTCOME = "an attempt has at most one outcome, while its lease holds"
    CLAIMED = "an attempt is given only to the worker that the log has for it"
    ACKNOWLEDGED = "an acknowledged outcome is in the log"
    CAP = "no more jobs run at once than a cap allows"
    THROTTLE = "no more jobs start in a window than a throttle allows"
    TURN = "each start is of the user whose turn it is"
    OWN_ORDER = "each start is of the user's first job, by priority and age"
    SCHEDULED_ONCE = "a due time of a schedule makes at most one job"
    SCHEDULED_ALL = "every due time of a schedule is decided"
    OUTBOX_COMMITTED = "a committed row of the outbox makes one job"
    OUTBOX_ROLLED_BACK = "a row of the outbox that was rolled back makes no job"
    ENDED = "every job has ended"


class Findings:
    """Collects how often each rule was checked, and what broke it."""

    def __init__(self) -> None:
        self.checked: Counter[Rule] = Counter()
        self.broken: Counter[Rule] = Counter()
        self._examples: dict[Rule, list[str]] = {}

    def check(self, rule: Rule, holds: object, *about: object) -> None:
        """Count one check of a rule; unless it holds, note what it is about."""
        self.checked[rule] += 1
        if not holds:
            self.broken[rule] += 1
            examples = self._examples.setdefault(rule, [])
            if len(examples) < SHOWN_MAX:
                examples.append(" ".join(map(str, about)))

    def sentences(self) -> list[str]:
        """Return a sentence for each broken rule, with some examples."""
        return [
            f"Broken {count} times: {rule}. {'; '.join(self._examples[rule])}"
            for rule, count in self.broken.items()
        ]
