"""The number of jobs that a worker claims before it has slots for them."""

from fairlog_client.worker.prefetch import (
    AHEAD_OF_LEASE_MAX,
    AHEAD_SECONDS,
    JOBS_PER_SLOT_MAX,
    AdaptivePrefetch,
    FixedPrefetch,
)

SLOTS = 10
LEASE = 30.0


class Jobs:
    """Attempts that end at a steady rate, on a clock of their own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.prefetch = AdaptivePrefetch(SLOTS, lambda: self.now)

    def end(self, rate: float, seconds: float = 3.0) -> None:
        for _ in range(int(rate * seconds)):
            self.now += 1 / rate
            self.prefetch.ended()


def test_as_many_jobs_are_claimed_ahead_as_end_in_a_moment() -> None:
    jobs = Jobs()
    jobs.end(rate=200)
    claimable = jobs.prefetch.claimable(0, LEASE)
    assert abs(claimable - 200 * AHEAD_SECONDS) <= 2


def test_nothing_is_claimed_ahead_before_a_job_has_ended_and_for_slow_handlers() -> None:
    jobs = Jobs()
    assert jobs.prefetch.claimable(0, LEASE) == 0
    jobs.end(rate=0.9 * SLOTS / AHEAD_SECONDS)
    assert jobs.prefetch.claimable(0, LEASE) == 0


def test_no_more_is_claimed_ahead_than_the_slots_and_the_lease_allow() -> None:
    jobs = Jobs()
    jobs.end(rate=100_000, seconds=1)
    assert jobs.prefetch.claimable(0, LEASE) == SLOTS * JOBS_PER_SLOT_MAX
    jobs = Jobs()
    jobs.end(rate=2000)
    short_lease = 0.5
    assert jobs.prefetch.claimable(0, short_lease) <= 2000 * short_lease * AHEAD_OF_LEASE_MAX


def test_the_next_claim_comes_once_half_of_the_jobs_claimed_ahead_have_begun() -> None:
    jobs = Jobs()
    jobs.end(rate=400)
    ahead = jobs.prefetch.claimable(0, LEASE)
    assert jobs.prefetch.claimable(ahead // 2 + 1, LEASE) == 0
    assert jobs.prefetch.claimable(ahead // 2, LEASE) == ahead - ahead // 2


def test_nothing_is_claimed_ahead_after_a_pause_or_a_reset() -> None:
    jobs = Jobs()
    jobs.end(rate=400)
    jobs.now += 3
    assert jobs.prefetch.claimable(0, LEASE) == 0
    jobs.end(rate=400)
    jobs.prefetch.reset()
    assert jobs.prefetch.claimable(0, LEASE) == 0


def test_a_fixed_number_is_claimed_ahead_whatever_ends() -> None:
    prefetch = FixedPrefetch(5)
    assert [prefetch.claimable(waiting, LEASE) for waiting in (0, 2, 5)] == [5, 3, 0]
    prefetch.ended()
    prefetch.reset()
    assert prefetch.claimable(0, LEASE) == 5
    assert prefetch.unbegun_seconds_max is None
