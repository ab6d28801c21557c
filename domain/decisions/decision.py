"""A decision: the events that follow from a command, and the answer to its caller."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from domain.decisions.answers import Answer
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import Unread
from domain.language.bodies import Body
from domain.language.errors import Refusal
from domain.language.events import Event
from domain.language.identifiers import ClaimHash, JobId, KeyName


class NewEvent(NamedTuple):
    """An event to be recorded, with its job and its body."""

    event: Event
    job_id: JobId | None = None
    body: Body | None = None

    def caused_by(self, name: KeyName) -> "NewEvent":
        """Return it with the key of the caller that caused it."""
        return self._replace(event=replace(self.event, by=name))


class Decision(NamedTuple):
    """The events that follow from a command, and the answer to its caller."""

    new_events: Sequence[NewEvent]
    reply: Callable[[WriteModel], Answer] | Refusal  # called once the new events are folded in
    unread: Unread | None = None  # rows to read before a claim can get more jobs
    empty_claim: ClaimHash | None = None  # one whose empty answer is final
