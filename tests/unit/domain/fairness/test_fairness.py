from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.decisions.answers import Claimed
from domain.decisions.batch import Batch
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import KnownLine, Unread, WaitingJob
from domain.fairness.line import Line, Load, UserInLine
from domain.fairness.queues import Lane, QueueName, queue_of
from domain.fairness.serve import rounds, serve
from domain.fairness.strides import next_pass
from domain.jobs.job import Job
from domain.language.commands import CancelJob, ChangeLimit, Command, EnforceDeadlines, ExtendLeases
from domain.language.events import JobStarted, JobSubmitted, Recorded, Scope
from domain.language.identifiers import JobId, Kind, UserId
from domain.language.moments import to_micros
from domain.language.policy import Policy
from domain.limits.limits import Limits
from tests.support.given import NOW, Given, at, given
from tests.support.referee import Referee
from tests.support.stories import (
    ALICE,
    BOB,
    CAROL,
    ECHO,
    OTHER_WORKER,
    SLEEP,
    SUBMITTED,
    WORKER,
    claim,
    complete,
    fail,
    give_back,
    released,
    started,
    submit,
    submitted,
)

OPEN = Policy(user_limit=10**9, global_limit=10**9)
NOW_MICROS = to_micros(NOW)
KINDS = (ECHO, SLEEP, Kind("thumbnail"))


def cap(running: int | None, user_id: UserId = ALICE) -> ChangeLimit:
    return ChangeLimit(scope=Scope.USER, user_id=user_id, running=running)


def cap_kind(running: int | None, kind: Kind = ECHO) -> ChangeLimit:
    return ChangeLimit(scope=Scope.KIND, kind=kind, running=running)


def line_of(*users: UserId, kind: Kind = ECHO) -> Given:
    """One job each, in this order; a user named again has another one."""
    return given(*[submitted(user, kind, payload=n) for n, user in enumerate(users)], policy=OPEN)


def served(story: Given, *commands: Command) -> list[str]:
    """Return the users that are served by these claims, in order."""
    return [
        event.user_id for event in story.when(*commands).events if isinstance(event, JobStarted)
    ]


# Turns


def test_users_are_served_in_turn_though_one_came_first_with_many_jobs() -> None:
    story = line_of(ALICE, ALICE, ALICE, ALICE, BOB, CAROL, BOB)
    assert served(story, claim(7)) == [
        "alice",
        "bob",
        "carol",
        "alice",
        "bob",
        "alice",
        "alice",
    ]


def test_turns_go_on_from_claim_to_claim() -> None:
    story = line_of(ALICE, ALICE, ALICE, BOB, BOB, CAROL)
    order: list[str] = []
    for _ in range(6):
        when = story.when(claim(1))
        order += [event.user_id for event in when.events if isinstance(event, JobStarted)]
        story = when.so
    assert order == ["alice", "bob", "carol", "alice", "bob", "alice"]


def test_each_user_s_oldest_job_comes_first() -> None:
    claimed = line_of(ALICE, BOB, ALICE, BOB).when(claim(4)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [1, 2, 3, 4]


def test_whoever_was_served_longest_ago_comes_before_those_who_joined_since() -> None:
    story = line_of(ALICE, BOB).when(claim(2)).so
    story = story.followed_by(
        submitted(CAROL, payload=7), submitted(BOB, payload=8), submitted(ALICE, payload=9)
    )
    assert served(story, claim(3)) == ["alice", "bob", "carol"]


def test_a_job_that_is_queued_again_waits_in_its_old_place_of_the_user_s_line() -> None:
    story = line_of(ALICE, ALICE, ALICE).when(claim(1)).so
    story = story.when(give_back(1)).so
    claimed = story.when(claim(3)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [1, 2, 3]


def test_a_user_who_left_the_line_joins_anew_at_the_end_if_never_served() -> None:
    story = line_of(ALICE, BOB).when(CancelJob(job_id=JobId(1))).so
    story = story.followed_by(submitted(ALICE, payload=9))
    assert served(story, claim(2)) == ["bob", "alice"]


def test_a_scheduled_job_joins_when_it_is_released() -> None:
    story = given(submitted(run_at=at(5)), policy=OPEN)
    assert served(story, claim(1)) == []
    story = story.followed_by(submitted(BOB)).after(5).when(EnforceDeadlines(jobs=[JobId(1)])).so
    assert served(story, claim(2)) == ["bob", "alice"]
    assert story.model.line.users[ALICE].turn == 3


@for_all(
    users=st.integers(2, 8),
    claims=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), max_size=12),
)
def test_while_the_same_users_wait_no_two_differ_by_more_than_one(
    users: int, claims: list[list[int]]
) -> None:
    names = [UserId(f"user-{number}") for number in range(users)]
    jobs = sum(map(sum, claims)) // users + 2
    story = line_of(*[name for name in names for _ in range(jobs)])  # one after another
    count = Counter(dict.fromkeys(names, 0))
    for batch in claims:
        when = story.when(*[claim(jobs_max) for jobs_max in batch])
        for event in when.events:
            assert isinstance(event, JobStarted)
            count[event.user_id] += 1
            assert max(count.values()) - min(count.values()) <= 1
        assert len(when.events) == sum(batch)
        story = when.so


@pytest.mark.parametrize("arrivals_a_claim", [1, 50])
def test_a_stream_of_fresh_users_starves_nobody(arrivals_a_claim: int) -> None:
    """1,000 fresh users arrive one by one, a job each, while alice waits with 100.

    Nobody who joined after one of her turns is served before her next.
    """
    model = WriteModel(KnownLine())
    recorded: list[Recorded] = []

    def happens(*commands: Command) -> None:
        batch = Batch(model, OPEN, NOW)
        batch.decide_all(commands, _unexpected)
        recorded.extend(batch.recorded)

    happens(*[submit(payload=number) for number in range(100)])
    for number in range(1000):
        happens(submit(UserId(f"fresh-{number}")))
        if number % arrivals_a_claim == 0:
            happens(claim(1), claim(1))
    while sum(isinstance(one.event, JobStarted) for one in recorded) < 1100:
        happens(claim(40))
    joined: dict[str, int] = {}
    turn = 0
    turns = 0
    for one in recorded:
        match one.event:
            case JobSubmitted(user_id=who):
                joined.setdefault(who, one.position)
            case JobStarted(user_id=who) if who == ALICE:
                turn, turns = one.position, turns + 1
            case JobStarted(user_id=who) if turns < 100:
                assert joined[who] < turn, f"{who} joined after alice's turn {turn}"
    assert turns == 100
    Referee(OPEN).see_all(recorded)


def _unexpected(command: Command, error: Exception) -> None:
    raise AssertionError(command) from error


# Kinds and priorities


def test_a_worker_for_some_kinds_gets_only_theirs_and_in_turn() -> None:
    story = given(
        submitted(kind=SLEEP, payload=1),
        submitted(payload=2),
        submitted(BOB, payload=3),
        submitted(CAROL, SLEEP, payload=4),
        submitted(payload=5),
        policy=OPEN,
    )
    claimed = story.when(claim(9, ECHO)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [2, 3, 5]
    claimed = story.when(claim(9, SLEEP, ECHO)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [1, 3, 4, 2, 5]
    assert served(story, claim(9, Kind("other"))) == []


def test_a_kind_that_is_named_twice_counts_once() -> None:
    story = line_of(ALICE, BOB)
    assert served(story, claim(9, ECHO, ECHO)) == ["alice", "bob"]


def test_priority_goes_before_age_within_a_user_s_own_line_only() -> None:
    story = given(
        submitted(payload=1),
        submitted(payload=2, priority=-5),
        submitted(BOB, payload=3),
        submitted(payload=4, priority=9),
        submitted(payload=5, priority=9, kind=SLEEP),
        submitted(CAROL, payload=6, priority=1000),
        policy=OPEN,
    )
    claimed = story.when(claim(9)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [4, 3, 6, 5, 1, 2]


def test_a_released_job_keeps_its_priority() -> None:
    story = given(submitted(payload=1), submitted(payload=2, priority=3, run_at=at(1)), policy=OPEN)
    story = story.after(1).when(EnforceDeadlines(jobs=[JobId(2)])).then(released(priority=3))
    claimed = story.when(claim(2)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [2, 1]


# Caps


def test_a_user_at_their_cap_is_out_of_the_line_and_holds_nobody_up() -> None:
    story = line_of(*[ALICE] * 4, BOB, BOB).when(cap(2)).so
    assert served(story, claim(9)) == ["alice", "bob", "alice", "bob"]
    capped = story.when(claim(9)).so
    assert served(capped, claim(9)) == []
    assert capped.model.line.users[ALICE].turn is None


def test_a_place_is_given_back_when_a_job_ends_however_it_does() -> None:
    full = line_of(*[ALICE] * 4).when(cap(1)).so.when(claim(1)).so
    assert served(full, claim(1)) == []
    endings: list[Command] = [complete(), fail(), fail(may_retry=False), give_back()]
    for ending in endings:
        assert served(full, ending, claim(1)) == ["alice"], ending
        assert served(full.when(ending).so, claim(1)) == ["alice"], ending
    assert served(full.after(30), EnforceDeadlines(jobs=[JobId(1)]), claim(1)) == ["alice"]


def test_the_place_of_a_cancelled_job_is_free_when_its_attempt_has_ended() -> None:
    full = line_of(*[ALICE] * 4).when(cap(1)).so.when(claim(1)).so
    cancelled = full.when(CancelJob(job_id=JobId(1))).so
    assert served(cancelled, claim(1)) == []
    for report in (complete(), fail(), give_back()):
        assert served(cancelled, report, claim(1)) == ["alice"], report
        assert served(cancelled.when(report).so, claim(1)) == ["alice"], report
    assert served(cancelled, complete(2), claim(1)) == []
    wake = EnforceDeadlines(jobs=[JobId(1)])
    assert served(cancelled.after(29.999999), wake, claim(1)) == []
    assert served(cancelled.after(30), wake, claim(1)) == ["alice"]
    beat = ExtendLeases(worker=WORKER, jobs=[(JobId(1), 1)])
    kept = cancelled.after(20).when(beat).so  # its handler has not heard yet
    assert served(kept.after(29.999999), wake, claim(1)) == []
    assert served(kept.after(30), wake, claim(1)) == ["alice"]


def test_the_place_of_an_attempt_that_timed_out_is_free_when_it_has_ended() -> None:
    story = given(submitted(timeout_seconds=5.0), submitted(payload=2), policy=OPEN)
    full = story.when(cap(1)).so.when(claim(1)).so.after(5)
    over = full.when(EnforceDeadlines(jobs=[JobId(1)])).so
    assert served(over, claim(1)) == []
    assert served(over, fail(), claim(1)) == ["alice"]
    assert served(over.after(25), EnforceDeadlines(jobs=[JobId(1)]), claim(1)) == ["alice"]


def test_a_capped_user_comes_back_at_the_turn_they_had() -> None:
    story = line_of(ALICE, ALICE, BOB).when(cap(1)).so.when(claim(2)).so
    story = story.followed_by(submitted(CAROL, payload=8), submitted(BOB, payload=9))
    assert served(story, complete(), claim(9)) == ["alice", "bob", "carol"]


def test_a_cap_of_nothing_holds_a_user_and_a_higher_one_lets_them_go() -> None:
    story = line_of(ALICE, BOB).when(cap(0)).so
    assert served(story, claim(9)) == ["bob"]
    assert served(story, cap(None), claim(9)) == ["alice", "bob"]
    assert served(story.when(cap(3)).so, claim(9)) == ["alice", "bob"]


def test_a_cap_below_what_runs_takes_nothing_away_and_gives_nothing() -> None:
    story = line_of(*[ALICE] * 4).when(claim(3)).so.when(cap(1)).so
    for job_id in (1, 2):
        story = story.when(complete(job_id=JobId(job_id))).so
        assert served(story, claim(1)) == []
    assert served(story, complete(job_id=JobId(3)), claim(9)) == ["alice"]


def test_a_kind_at_its_cap_holds_up_its_own_jobs_alone() -> None:
    story = given(
        submitted(payload=1),
        submitted(payload=2),
        submitted(BOB, payload=3),
        submitted(BOB, SLEEP, payload=4),
        submitted(CAROL, payload=5),
        policy=OPEN,
    )
    story = story.when(cap_kind(2)).so
    claimed = story.when(claim(9)).answer(Claimed)
    assert [job.id for job in claimed.jobs] == [1, 3, 4]
    full = story.when(claim(9)).so
    again = full.when(complete(job_id=JobId(3)), claim(9)).outcomes[1]
    assert isinstance(again, Claimed)
    assert [job.user_id for job in again.jobs] == ["carol"]  # never served, and waits longest


def test_a_kind_s_cap_of_nothing_and_its_end() -> None:
    story = line_of(ALICE).when(cap_kind(0)).so
    assert served(story, claim(1)) == []
    assert served(story, cap_kind(None), claim(1)) == ["alice"]


# What was not read of the line


def queue(kind: Kind) -> QueueName:
    return queue_of(kind, ())


def lane(user_id: UserId, kind: Kind) -> Lane:
    return user_id, queue(kind)


def reading(
    users: dict[UserId, UserInLine], lanes: dict[UserId, dict[Kind, int]], *jobs: WaitingJob
) -> tuple[Line, KnownLine]:
    """A line as it was read: all of these users' rows, and the front of their lanes."""
    known = KnownLine()
    line = Line(known)
    line.users.update(users)
    for user_id, counts in lanes.items():
        line.lanes[user_id] = {queue(kind): Load(count) for kind, count in counts.items()}
    for user_id in users:
        line.has_read(user_id)
    for job in jobs:
        known.read_jobs((job.user_id, job.queue), [job])
    return line, known


def waits(job_id: int, user_id: UserId = ALICE, kind: Kind = ECHO, priority: int = 0) -> WaitingJob:
    return WaitingJob(JobId(job_id), user_id, kind, priority)


def picks(line: Line, jobs_max: int, *kinds: Kind) -> list[int]:
    return [job.job_id for job in serve(line, kinds or (ECHO,), jobs_max, 1000, NOW_MICROS).jobs]


TWO_USERS = {ALICE: UserInLine(joined=1, waiting=3), BOB: UserInLine(joined=2, waiting=1)}
THREE_AND_ONE = {ALICE: {ECHO: 3}, BOB: {ECHO: 1}}


def test_a_lane_that_was_not_read_to_its_end_ends_the_claim_rather_than_skip_its_user() -> None:
    users = {ALICE: UserInLine(joined=1, waiting=3), BOB: UserInLine(joined=2, waiting=2)}
    lanes = {ALICE: {ECHO: 3}, BOB: {ECHO: 2}}
    line, _ = reading(users, lanes, waits(1), waits(2, BOB), waits(5, BOB))
    assert picks(line, 2) == [1, 2]
    assert picks(line, 9) == [1, 2]
    assert serve(line, [ECHO], 9, 1000, NOW_MICROS).unread == Unread(
        jobs=7, lanes=frozenset({lane(ALICE, ECHO)})
    )
    whole, _ = reading(users, lanes, waits(1), waits(3), waits(4), waits(2, BOB), waits(5, BOB))
    assert picks(whole, 9) == [1, 2, 3, 5, 4]


def test_a_lane_of_which_nothing_was_read_ends_the_claim_at_once() -> None:
    line, _ = reading(TWO_USERS, THREE_AND_ONE, waits(2, BOB))
    assert picks(line, 9) == []


def test_all_lanes_that_a_claim_will_need_are_read_together() -> None:
    line, _ = reading(TWO_USERS, THREE_AND_ONE)
    both = frozenset({lane(ALICE, ECHO), lane(BOB, ECHO)})
    assert serve(line, [ECHO], 9, 1000, NOW_MICROS).unread == Unread(jobs=9, lanes=both)
    assert serve(line, [ECHO], 1, 1000, NOW_MICROS).unread == Unread(
        jobs=1, lanes=frozenset({lane(ALICE, ECHO)})
    )


def test_who_joined_a_lane_waits_behind_what_was_not_read_of_it() -> None:
    line, known = reading(TWO_USERS, THREE_AND_ONE, waits(2, BOB))
    known.enter(waits(50))
    assert picks(line, 9) == []
    known.read_jobs(lane(ALICE, ECHO), [waits(1)])
    assert picks(line, 9) == [1, 2]


def test_who_joined_a_lane_before_the_last_that_was_read_is_served_in_their_place() -> None:
    users = {ALICE: UserInLine(joined=1, waiting=5), BOB: UserInLine(joined=2, waiting=1)}
    lanes = {ALICE: {ECHO: 5}, BOB: {ECHO: 1}}
    line, known = reading(users, lanes, waits(1), waits(9), waits(2, BOB))
    known.enter(waits(4))
    assert picks(line, 9) == [1, 2, 4, 9]
    known.enter(waits(50, priority=1))
    assert picks(line, 9) == [50, 2, 1, 4, 9]


def test_who_left_is_not_served_and_does_not_hide_what_follows() -> None:
    users = {ALICE: UserInLine(joined=1, waiting=1), BOB: UserInLine(joined=2, waiting=1)}
    line, known = reading(
        users, {ALICE: {ECHO: 1}, BOB: {ECHO: 1}}, waits(1), waits(3), waits(2, BOB)
    )
    known.leave(lane(ALICE, ECHO), JobId(1))
    assert picks(line, 9) == [3, 2]
    known.leave(lane(ALICE, ECHO), JobId(3))
    assert picks(line, 9) == []


def test_nobody_is_served_beyond_the_horizon_of_a_kind() -> None:
    lanes = {ALICE: {ECHO: 1}, BOB: {SLEEP: 1}}
    line, known = reading(TWO_USERS, lanes, waits(1), waits(2, BOB, SLEEP))
    known.read_users(queue(ECHO), 1)
    assert picks(line, 9, ECHO, SLEEP) == [1]
    assert picks(line, 9, SLEEP) == [2]
    known.read_users(queue(ECHO), 2)
    assert picks(line, 9, ECHO, SLEEP) == [1, 2]


def test_a_kind_without_room_has_no_horizon() -> None:
    lanes = {ALICE: {ECHO: 1}, BOB: {SLEEP: 1}}
    line, known = reading(TWO_USERS, lanes, waits(1), waits(2, BOB, SLEEP))
    known.read_users(queue(ECHO), 1)
    line.kinds[ECHO] = Load(waiting=1, running=1)
    line.limits.kinds[ECHO] = Limits(running=1)
    assert picks(line, 9, ECHO, SLEEP) == [2]


def test_going_round_again_is_beyond_a_horizon() -> None:
    lanes = {ALICE: {ECHO: 2}, BOB: {ECHO: 1}}
    line, known = reading(TWO_USERS, lanes, waits(1), waits(3), waits(2, BOB))
    known.read_users(queue(ECHO), 2)
    assert picks(line, 9) == [1, 2]


def test_a_line_of_which_nothing_was_read_asks_for_its_kinds() -> None:
    line = Line(KnownLine(is_whole=False))
    unread = serve(line, [ECHO, SLEEP], 3, 1000, NOW_MICROS).unread
    assert unread == Unread(jobs=3, queues=frozenset({queue(ECHO), queue(SLEEP)}))


# Any line, read in part

USERS = [ALICE, BOB, CAROL, UserId("dave")]
SUBMISSIONS = st.tuples(
    st.sampled_from(USERS), st.sampled_from(KINDS), st.sampled_from([0, 0, 1, -1])
)
WISHES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("submit"), SUBMISSIONS),
    st.tuples(st.just("claim"), st.integers(1, 6), st.sets(st.sampled_from(KINDS))),
    st.tuples(st.sampled_from(["complete", "cancel", "fail", "return"]), st.integers(0, 30)),
    st.tuples(st.just("cap"), st.sampled_from(USERS), st.sampled_from([None, 0, 1, 2])),
    st.tuples(st.just("cap kind"), st.sampled_from(KINDS), st.sampled_from([None, 0, 1, 2])),
)


def to_command(wish: Any, jobs: Sequence[Job], number: int) -> Command | None:
    match wish:
        case ("submit", (user_id, kind, priority)):
            return submit(user_id, kind, payload=number, priority=priority)
        case ("claim", jobs_max, kinds):
            return claim(jobs_max, *sorted(kinds), worker=WORKER if kinds else OTHER_WORKER)
        case ("cap", user_id, running):
            return cap(running, user_id)
        case ("cap kind", kind, running):
            return cap_kind(running, kind)
        case (what, index) if jobs:
            job = jobs[index % len(jobs)]
            match what:
                case "complete":
                    return complete(job.attempt, job.id)
                case "fail":
                    return fail(job.attempt, job.id)
                case "return":
                    return give_back(job.attempt, job.id)
                case _:
                    return CancelJob(job_id=job.id)
    return None


def play(batches: Sequence[Sequence[Any]]) -> Given:
    story = given(policy=OPEN)
    number = 0
    for wishes in batches:
        jobs = list(story.model.jobs.rows.values())
        commands = [to_command(wish, jobs, number + n) for n, wish in enumerate(wishes)]
        number += len(wishes)
        story = story.when(*[command for command in commands if command is not None]).so
    return story


BATCHES = st.lists(st.lists(WISHES, max_size=6), max_size=10)


@for_all(batches=BATCHES)
def test_whatever_happens_nobody_is_served_out_of_turn_or_over_a_cap(
    batches: list[list[Any]],
) -> None:
    Referee(OPEN, any_kind={OTHER_WORKER}).see_all(play(batches).recorded)


@for_all(
    batches=BATCHES,
    last=st.lists(WISHES, max_size=5),
    jobs_max=st.integers(1, 8),
    kinds=st.sets(st.sampled_from(KINDS)),
    lanes_read=st.integers(0, 6),
    jobs_read=st.integers(0, 3),
)
def test_a_line_that_was_read_in_part_serves_the_same_or_fewer_in_the_same_order(
    batches: list[list[Any]],
    last: list[Any],
    jobs_max: int,
    kinds: set[Kind],
    lanes_read: int,
    jobs_read: int,
) -> None:
    story = play(batches)
    whole, part = story.model, story.model
    read_in_part(part.line, lanes_read, lambda _: jobs_read)
    jobs = list(whole.jobs.rows.values())
    wishes = [to_command(wish, jobs, 1000 + n) for n, wish in enumerate(last) if wish[0] != "claim"]
    commands = [*(one for one in wishes if one is not None), claim(jobs_max, *sorted(kinds))]
    of_whole, of_part = (_starts(model, commands) for model in (whole, part))
    assert of_part == of_whole[: len(of_part)]


@for_all(batches=BATCHES, jobs_max=st.integers(1, 12), kinds=st.sets(st.sampled_from(KINDS)))
def test_rounds_says_how_much_of_each_lane_has_to_be_read(
    batches: list[list[Any]], jobs_max: int, kinds: set[Kind]
) -> None:
    """Caps may leave capacity unused, and then fewer jobs are served."""
    story = play([[wish for wish in wishes if wish[0] != "cap kind"] for wishes in batches])
    for user_id in USERS:
        story = story.when(cap(None, user_id)).so
    chosen = tuple(sorted(kinds)) or KINDS
    line = story.model.line
    in_turn = sorted(
        (user.order, name)
        for name, user in line.users.items()
        if user.order is not None and any(line.load_of(name, kind).waiting for kind in chosen)
    )
    waiting = [sum(line.load_of(name, kind).waiting for kind in chosen) for _, name in in_turn]
    shares = dict(zip([name for _, name in in_turn], rounds(waiting, jobs_max), strict=True))
    part = story.model.line
    read_in_part(part, len(USERS) + 1, lambda lane: shares.get(lane[0], 0))
    of_part, of_whole = (serve(one, chosen, jobs_max, 10_000, NOW_MICROS) for one in (part, line))
    assert of_part.jobs == of_whole.jobs


def read_in_part(line: Line, lanes_read: int, jobs_read: Callable[[Lane], int]) -> None:
    """Forget all of a line but what was read: first lanes of each kind, and first jobs of each."""
    whole, line.known = line.known, KnownLine(is_whole=False)
    assert whole is not None
    line.known.has_more_kinds = False
    for kind in KINDS:
        users = list(whole.users_in_order(queue(kind)))
        front = users[:lanes_read]
        last = front[-1][0] if front else 0
        line.known.read_users(queue(kind), None if len(front) < lanes_read else last)
        for _, user_id in front:
            of_user = lane(user_id, kind)
            line.has_read(user_id)
            waiting = line.lanes[user_id][queue(kind)].waiting
            jobs = list(whole.lanes[of_user].in_order(waiting))
            line.known.read_jobs(of_user, jobs[: jobs_read(of_user)])


def _starts(model: WriteModel, commands: list[Command]) -> list[int | None]:
    batch = Batch(model, OPEN, NOW)
    batch.decide_all(commands, _unexpected)
    return [one.job_id for one in batch.recorded if isinstance(one.event, JobStarted)]


# Rounds


def test_rounds_goes_round() -> None:
    assert rounds([5, 1, 3], 6) == [3, 1, 2]
    assert rounds([], 5) == []
    assert rounds([0, 0], 5) == [0, 0]
    assert rounds([9, 9, 9], 2) == [1, 1, 0]
    assert rounds([1, 0, 100], 1000) == [1, 0, 100]


@for_all(waiting=st.lists(st.integers(0, 12), max_size=8), jobs_max=st.integers(0, 60))
def test_rounds_is_what_dealing_them_out_one_by_one_comes_to(
    waiting: list[int], jobs_max: int
) -> None:
    dealt = [0] * len(waiting)
    while sum(dealt) < min(jobs_max, sum(waiting)):
        for index, most in enumerate(waiting):
            if dealt[index] < most and sum(dealt) < jobs_max:
                dealt[index] += 1
    assert rounds(waiting, jobs_max) == dealt


def test_a_claim_takes_as_many_as_it_asks_for_and_no_more() -> None:
    story = line_of(*[ALICE] * 5)
    assert [len(served(story, claim(jobs_max))) for jobs_max in (1, 3, 5, 1000)] == [1, 3, 5, 5]


def test_the_first_start_is_at_the_next_position_and_the_turn_follows_it() -> None:
    story = given(SUBMITTED, submitted(payload=2)).when(claim(2)).then(started(), started())
    assert story.model.line.users[ALICE] == UserInLine(
        last_served=4, running=2, pass_=next_pass(next_pass(next_pass(0, None), None), None)
    )


def test_a_line_that_is_not_served_stands_as_another() -> None:
    story = (
        given(SUBMITTED, submitted(BOB, payload=1), started(attempt=1), policy=OPEN)
        .when(submit(CAROL), cap(0))
        .so
    )
    unserved = WriteModel()
    for recorded in story.recorded:
        unserved.evolve(recorded)
    line = story.model.line
    assert (unserved.line.users, unserved.line.lanes) == (line.users, line.lanes)
