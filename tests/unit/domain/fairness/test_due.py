from domain.fairness.due import JOBS_PER_USER_MAX, DueJob, DueQueue
from domain.language.identifiers import JobId, UserId


def due(user: str, *ids: int) -> list[DueJob]:
    return [DueJob(0, JobId(job_id), UserId(user)) for job_id in ids]


def test_users_take_turns() -> None:
    queue = DueQueue()
    queue.add([*due("alice", 1, 2, 3, 4), *due("bob", 9), *due("carol", 7, 8)])
    assert queue.take(5) == [1, 9, 7, 2, 8]
    assert queue.take(5) == [3, 4]
    assert not queue


def test_who_comes_while_others_are_taken_is_next_in_turn() -> None:
    queue = DueQueue()
    queue.add(due("alice", 1, 2, 3))
    assert queue.take(1) == [1]
    queue.add(due("bob", 9))
    assert queue.take(2) == [2, 9]


def test_a_job_is_taken_once_however_often_it_is_added() -> None:
    queue = DueQueue()
    queue.add(due("alice", 1, 1))
    queue.add(due("alice", 1, 2))
    assert queue.take(5) == [1, 2]


def test_it_holds_so_many_jobs_of_a_user_and_the_others_have_room() -> None:
    queue = DueQueue()
    queue.add(due("alice", *range(JOBS_PER_USER_MAX + 5)))
    queue.add(due("bob", -1))
    assert len(queue) == JOBS_PER_USER_MAX + 1
    assert queue.take(2) == [0, -1]
