"""Shares while others waited, and the promise, from starts alone."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.audit.fair_shares import FairShares, PassedOver, Start, UnstartedJob, fair_shares
from domain.language.identifiers import JobId, Kind, UserId
from tests.support.given import NOW

A, B = Kind("a"), Kind("b")


def start(position: int, user: str, ready: int, kind: Kind = A) -> Start:
    """A start so many seconds after NOW as its position, of a job that was ready likewise."""
    return Start(
        position,
        NOW + timedelta(seconds=position),
        UserId(user),
        kind,
        JobId(ready),
        ready,
        NOW + timedelta(seconds=ready),
    )


def waits(user: str, ready: int, kind: Kind = A) -> UnstartedJob:
    return UnstartedJob(UserId(user), kind, JobId(ready), ready)


def shares(found: FairShares) -> dict[str, tuple[int, int]]:
    return {one.user_id: (one.starts, one.contended) for one in found.shares}


def test_starts_without_others_in_line_are_not_contended() -> None:
    """An hour in which alice alone had a backlog looks fair: bob got the same while he waited."""
    alone = [start(100 + number, "alice", 1) for number in range(50)]
    together = [start(200, "bob", 190), start(201, "alice", 2), start(202, "bob", 191)]
    found = fair_shares([*alone, *together, start(203, "alice", 3)], [], ())
    assert shares(found) == {"bob": (2, 2), "alice": (52, 1)}
    assert found.passed_over == []


def test_a_job_that_still_waits_makes_the_starts_before_it_contended() -> None:
    starts = [start(10, "alice", 1), start(20, "alice", 2)]
    assert fair_shares(starts, [waits("bob", 15)], ()).contended == [False, True]
    assert fair_shares(starts, [waits("bob", 15, B)], ()).contended == [False, False]
    assert fair_shares(starts, [waits("bob", 15)], {UserId("bob")}).contended == [False, False]


def test_waits_are_counted_with_their_mean_and_the_longest() -> None:
    [share] = fair_shares([start(10, "alice", 4), start(20, "alice", 18)], [], ()).shares
    assert (share.mean_seconds, share.longest_seconds) == (4.0, 6.0)


def test_who_waits_while_another_is_served_twice_is_passed_over() -> None:
    starts = [start(10, "alice", 1), start(11, "alice", 2), start(12, "bob", 5)]
    passed = PassedOver(UserId("bob"), A, JobId(5), UserId("alice"))
    assert fair_shares(starts, [], ()).passed_over == [passed]
    assert fair_shares(starts[:2], [waits("bob", 5)], ()).passed_over == [passed]


def test_who_joined_after_the_first_of_both_starts_is_not_passed_over() -> None:
    starts = [start(10, "alice", 1), start(12, "alice", 2), start(13, "bob", 11)]
    assert fair_shares(starts, [], ()).passed_over == []


def test_a_user_of_another_kind_or_with_a_cap_is_not_passed_over() -> None:
    starts = [start(10, "alice", 1), start(11, "alice", 2), start(12, "bob", 5, B)]
    assert fair_shares(starts, [], ()).passed_over == []
    capped = [start(10, "alice", 1), start(11, "alice", 2), start(12, "bob", 5)]
    assert fair_shares(capped, [], {UserId("bob")}).passed_over == []


def test_users_with_a_weight_count_as_waiting_and_are_not_covered_by_the_promise() -> None:
    starts = [start(10, "alice", 4), start(20, "alice", 4), start(30, "bob", 5)]
    for name in ("alice", "bob"):
        found = fair_shares(starts, [], (), {UserId(name)})
        assert found.passed_over == []
        assert found.contended == [True, True, False]
    still = fair_shares(starts[:2], [waits("bob", 5)], (), {UserId("bob")})
    assert still.passed_over == []


def test_a_turn_in_another_kind_counts_as_a_turn() -> None:
    """Bob was served at 12 in kind B, so alice came first again in kind A."""
    starts = [
        start(10, "alice", 1),
        start(12, "bob", 2, B),
        start(13, "alice", 3),
        start(14, "bob", 4),
    ]
    assert fair_shares(starts, [], ()).passed_over == []


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.data())
def test_a_round_robin_is_never_broken_and_a_swap_in_it_is_found(
    jobs: list[str], data: st.DataObject
) -> None:
    """All wait from the start on; the line serves whoever was served longest ago."""
    queues = {user: jobs.count(user) for user in set(jobs)}
    turns = {user: number for number, user in enumerate(sorted(queues))}
    starts: list[Start] = []
    ready = dict.fromkeys(queues, 1)
    position = 100
    while any(queues.values()):
        user = min((one for one in queues if queues[one]), key=lambda one: turns[one])
        starts.append(start(position, user, ready[user]))
        queues[user] -= 1
        turns[user] = position
        position += 1
    assert fair_shares(starts, [], ()).passed_over == []
    users = sorted(set(jobs))
    if len(users) > 1:
        greedy = data.draw(st.sampled_from(users))
        twice = [start(90, greedy, 1), start(91, greedy, 1), *starts]
        passed = {one.user_id for one in fair_shares(twice, [], ()).passed_over}
        assert passed == set(users) - {greedy}
