"""The log's append against a hand-written INSERT of the same rows, 200 events a transaction.

`append` is what the writer does in each transaction with a batch's events: lock the head row,
encode and hash the events, insert them, move the head, commit. The hand-written INSERT puts the
same rows, encoded and hashed beforehand, into a table of its own with the same indexes, by the
driver's own `executemany` (multi-row on PyMySQL), and commits. They take turns, three times;
figures are medians. On MariaDB a second limit is the same INSERT as text rendered beforehand: what
the database alone can do. Bodies are in neither.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from statistics import median
from typing import Final

from domain.language.events import VERSION, Recorded, encode, type_of
from domain.language.moments import from_micros, to_micros
from domain.log import chain
from entrypoints.composition import prepare
from entrypoints.service.fairlog import Fairlog
from tests.benchmarks.bare import BareDatabase, Row, hand_table, open_bare
from tests.benchmarks.figures import Figure, Limit, alternate, ratio_at_least
from tests.benchmarks.filling import open_service
from tests.benchmarks.history import submissions
from tests.benchmarks.site import KINDS, TITLES, Kind, Site

EVENTS_PER_BATCH: Final = 200
_USERS: Final = 1000
_THEN: Final = from_micros(1_700_000_040_000_000)  # a window begins


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        url = site.new_database(kind)
        with closing(open_service(url)) as fairlog, closing(open_bare(kind, url)) as bare:
            prepare(fairlog)
            yield from _compare(site, kind, fairlog, bare)
        site.drop_database(kind, url)


def hand_written_rate(site: Site, kind: Kind) -> float:
    """Events a second of the hand-written INSERT, for other benchmarks to be held against."""
    url = site.new_database(kind)
    with closing(open_service(url)) as fairlog, closing(open_bare(kind, url)) as bare:
        prepare(fairlog)
        table = hand_table(bare, "hand_written")
        batches = _batches(0, _how_many(site))
        rate = _timed_inserts(bare, batches, table)
    site.drop_database(kind, url)
    return rate


def appended_rate(site: Site, kind: Kind) -> float:
    """Return the events a second of the log's append, on a database of its own."""
    url = site.new_database(kind)
    with closing(open_service(url)) as fairlog:
        prepare(fairlog)
        rate = _timed_appends(fairlog, _batches(0, _how_many(site)))
    site.drop_database(kind, url)
    return rate


def _compare(site: Site, kind: Kind, fairlog: Fairlog, bare: BareDatabase) -> Iterator[Figure]:
    count = _how_many(site)
    hand, rendered = hand_table(bare, "hand_written"), hand_table(bare, "rendered")
    positions = iter(range(0, 1 << 40, count * EVENTS_PER_BATCH))
    here: list[list[list[Recorded]]] = []

    def append() -> float:
        here.append(_batches(next(positions), count))
        return _timed_appends(fairlog, here[-1])

    def insert() -> float:
        return _timed_inserts(bare, here[-1], hand)

    def send() -> float:
        texts = [bare.render(rendered, _rows(batch)) for batch in here[-1]]
        return _timed(len(here[-1]), lambda index: bare.send(texts[index]))

    measures = [append, insert, send] if bare.can_render else [append, insert]
    rates = [median(found) for found in alternate(site.rounds, *measures)]
    name = f"{TITLES[kind]}, batches of {EVENTS_PER_BATCH}"
    yield Figure(
        name, rates[0], "events/s", Limit(rates[1], "hand-written INSERT"), ratio_at_least(0.6)
    )
    if bare.can_render:
        yield Figure(
            f"{name}, the database alone", rates[0], "events/s", Limit(rates[2], "ready text")
        )


def _how_many(site: Site) -> int:
    return 25 if site.quick else 250


def _timed_appends(fairlog: Fairlog, batches: Sequence[Sequence[Recorded]]) -> float:
    log = fairlog.log
    with fairlog.database.connect_writer() as connection:

        def append(index: int) -> None:
            with connection.begin():
                head = log.lock_head(connection)
                log.move_head(
                    connection, head, log.append(connection, head, batches[index], []).head
                )

        return _timed(len(batches), append)


def _timed_inserts(bare: BareDatabase, batches: Sequence[Sequence[Recorded]], table: str) -> float:
    rows = [_rows(batch) for batch in batches]
    return _timed(len(rows), lambda index: bare.insert(table, rows[index]))


def _timed(count: int, write: Callable[[int], None]) -> float:
    """Events a second."""
    started = time.perf_counter()
    for index in range(count):
        write(index)
    return count * EVENTS_PER_BATCH / (time.perf_counter() - started)


def _rows(recorded: Sequence[Recorded]) -> list[Row]:
    """Return the rows as the log stores them, each with the hash that follows the one before it."""
    rows: list[Row] = []
    at, tail = to_micros(_THEN), chain.GENESIS
    for one in recorded:
        name, data = type_of(one.event), encode(one.event)
        user = getattr(one.event, "user_id", "").encode()
        tail = chain.link(
            tail, chain.leaf(one.position, VERSION, name.encode(), user, one.job_id, at, data)
        )
        rows.append((one.position, name, VERSION, user, one.job_id, at, data, tail))
    return rows


def _batches(after: int, count: int) -> list[list[Recorded]]:
    recorded = [
        Recorded(position, _THEN, job_id, event)
        for position, (event, job_id, _) in enumerate(
            submissions(count * EVENTS_PER_BATCH // 2, _USERS, _THEN, after), after + 1
        )
    ]
    return [
        recorded[start : start + EVENTS_PER_BATCH]
        for start in range(0, len(recorded), EVENTS_PER_BATCH)
    ]
