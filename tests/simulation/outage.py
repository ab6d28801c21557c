"""A partition that is away for some minutes: what its users and those of the others notice.

Each partition takes its submissions in their order, at most `JOBS_PER_PARTITION` a second, and a
job starts when it is admitted: there are enough workers. While a partition is away its submissions
wait at their senders. When it is back they come in the order in which they were first sent, and
count in the window in which they are admitted. What the global limit refuses is not sent again. All
is compared with the same demand without an outage.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from tests.simulation.arrivals import WINDOW_SECONDS, Window
from tests.simulation.fairness import JOBS_PER_PARTITION
from tests.simulation.quotas import Coordinator, Leases, Partition

BEGINS_AT: Final = WINDOW_SECONDS + WINDOW_SECONDS // 2  # in the middle of the second window


class Outage(Struct, frozen=True):
    partition: int
    seconds: int
    begins: int = BEGINS_AT

    @property
    def ends(self) -> int:
        return self.begins + self.seconds


class OutageResult(Struct, frozen=True):
    delayed: int  # jobs of the lost partition that waited, from the loss until nothing waited
    delayed_share: float  # of all jobs that were admitted meanwhile
    delay_mean: float  # seconds, of the delayed jobs
    delay_max: int  # seconds
    catch_up_seconds: int  # from the return until nothing waits
    catch_up_expected: float  # seconds, by the partition's mean rate
    quota_lost: int  # leased to the lost partition and unused when it was lost
    refused: int  # submissions of the lost partition that would else have been admitted
    others_more: int  # submissions of the others, in windows that admit more of them because of it
    others_less: int  # the same in windows that admit fewer
    others_delayed: int  # jobs of the others that waited for a second or longer in addition


class _Queue:
    """The submissions of one partition that wait, oldest first."""

    def __init__(self, quota: Partition) -> None:
        self.quota = quota
        self.delays: Counter[int] = Counter()  # jobs by the seconds that they waited
        self.admitted: list[int] = []  # jobs by second
        self._waiting: deque[tuple[int, int]] = deque()  # second of the arrival, submissions

    def add(self, now: int, count: int) -> None:
        self._waiting.append((now, count))

    def take(self, now: int) -> None:
        """Admit and start what one second allows."""
        room = JOBS_PER_PARTITION
        while self._waiting and room:
            arrived, count = self._waiting.popleft()
            asked = min(count, room)
            if count > asked:
                self._waiting.appendleft((arrived, count - asked))
            admitted = self.quota.admit(asked)
            self.delays[now - arrived] += admitted
            room -= admitted
        self.admitted.append(JOBS_PER_PARTITION - room)

    @property
    def is_empty(self) -> bool:
        return not self._waiting


class _Run(Struct, frozen=True):
    queues: Sequence[_Queue]
    caught_up: int  # second from which nothing of the lost partition waited
    delays: Counter[int]  # jobs of the lost partition until then, by the seconds that they waited
    quota_lost: int

    def admitted(self, partitions: Iterable[int], begins: int, ends: int) -> int:
        """Return the submissions that were admitted from one second to another."""
        return sum(sum(self.queues[at].admitted[begins:ends]) for at in partitions)


def simulate(windows: Sequence[Window], limit: int, leases: Leases, outage: Outage) -> OutageResult:
    """Run the same windows with and without an outage."""
    usual = _run(windows, limit, leases, Outage(outage.partition, 0))
    lost = _run(windows, limit, leases, outage)
    everyone = range(len(lost.queues))
    others = [at for at in everyone if at != outage.partition]
    end = len(windows) * WINDOW_SECONDS

    def difference(partitions: Sequence[int], begins: int, ends: int) -> int:
        """Return how many more submissions are admitted because of the outage."""
        return lost.admitted(partitions, begins, ends) - usual.admitted(partitions, begins, ends)

    by_window = [
        difference(others, begins, begins + WINDOW_SECONDS)
        for begins in range(0, end, WINDOW_SECONDS)
    ]
    arrived = sum(second[outage.partition] for window in windows for second in window)
    delayed = _delayed(lost.delays)
    return OutageResult(
        delayed=delayed,
        delayed_share=delayed / max(1, lost.admitted(everyone, outage.begins, lost.caught_up)),
        delay_mean=sum(delay * count for delay, count in lost.delays.items()) / max(1, delayed),
        delay_max=max(lost.delays, default=0),
        catch_up_seconds=lost.caught_up - outage.ends,
        catch_up_expected=catch_up_seconds(outage.seconds, arrived / end),
        quota_lost=lost.quota_lost,
        refused=-difference([outage.partition], 0, end),
        others_more=sum(max(0, more) for more in by_window),
        others_less=sum(max(0, -more) for more in by_window),
        others_delayed=sum(
            _delayed(lost.queues[at].delays) - _delayed(usual.queues[at].delays) for at in others
        ),
    )


def _delayed(delays: Counter[int]) -> int:
    """Return how many jobs waited for a second or longer."""
    return delays.total() - delays[0]


def catch_up_seconds(away: int, rate: float) -> float:
    """Return how long a partition that was away needs, at so many submissions a second."""
    return away * rate / (JOBS_PER_PARTITION - rate)


def _run(windows: Sequence[Window], limit: int, leases: Leases, outage: Outage) -> _Run:
    number = len(windows[0][0])
    coordinator = Coordinator(limit, leases, number)
    queues = [_Queue(Partition(coordinator)) for _ in range(number)]
    own = queues[outage.partition]
    quota_lost = 0
    caught_up: int | None = None
    before = delays = own.delays
    for now in range(len(windows) * WINDOW_SECONDS):
        window, second = divmod(now, WINDOW_SECONDS)
        if not second:
            coordinator.begin_window()
            for queue in queues:
                queue.quota.begin_window()
        if now == outage.begins:
            quota_lost, before = own.quota.held, own.delays.copy()
        for turn in range(number):
            at = (now + turn) % number
            queues[at].add(now, windows[window][second][at])
            if at == outage.partition and outage.begins <= now < outage.ends:
                queues[at].admitted.append(0)
            else:
                queues[at].take(now)
        if caught_up is None and now >= outage.ends and own.is_empty:
            caught_up, delays = now, own.delays - before
    assert caught_up is not None, "the windows have to reach beyond catching up"
    return _Run(queues, caught_up, delays, quota_lost)
