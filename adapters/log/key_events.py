"""The API keys, read from the log: a key has the rights that its events give, and no others.

The events of a type are one range of an index, so reading what is new costs three look-ups.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.event_pages import RECORDED, latest_of, latest_position, recorded
from adapters.log.tables import HEAD_ID, events, log_head
from domain.access.keys import KEY_EVENTS, ApiKeys
from domain.language.events import EVENT_TYPES, LossAccepted

KEY_EVENT_NAMES: Final = tuple(name for name, cls in EVENT_TYPES.items() if cls in KEY_EVENTS)


def keys_after(connection: Connection, known: ApiKeys, up_to: int | None = None) -> ApiKeys:
    """Return the keys at a position, from those at an earlier one; None: at the head.

    The head is read first: between two statements others may write, and an event of one type that
    is found must not hide an earlier one of another type.
    """
    if up_to is None:
        up_to = connection.execute(
            sa.select(log_head.c.position).where(log_head.c.id == HEAD_ID)
        ).scalar_one()
    loss = latest_position(connection, LossAccepted.__name__, up_to)
    if loss != known.loss:
        known = ApiKeys()  # some of them may come from events that are lost
        known.loss = loss
    found = [
        event
        for name in KEY_EVENT_NAMES
        for event in recorded(connection, _events_of(name, known.position, up_to))
    ]
    keys = known.copy()
    for event in sorted(found, key=lambda one: one.position):
        keys.evolve(event)
    return keys


def keys_at(connection: Connection, position: int) -> ApiKeys:
    """Return the keys at a position of the log."""
    return keys_after(connection, ApiKeys(), position)


def latest_key_event(connection: Connection) -> int:
    """Return the position of the latest event that changed a key; 0 if there is none."""
    return latest_of(connection, KEY_EVENT_NAMES)


def _events_of(name: str, after: int, up_to: int) -> "sa.Select[int, int, int | None, int, bytes]":
    # Without the index MySQL scans the log from that position on.
    return (
        sa.select(*RECORDED)
        .with_hint(events, "FORCE INDEX (events_by_type)")  # SQLite has no such hint
        .where(events.c.type == name, events.c.position > after, events.c.position <= up_to)
        .order_by(events.c.position)
    )
