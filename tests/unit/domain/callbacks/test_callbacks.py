"""Callbacks: who is told the end of a job, by which delivery, and signed by which secret."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from domain.audit.callback_legality import check_callbacks, miscalled
from domain.decisions.answers import Claimed
from domain.decisions.write_model import WriteModel
from domain.language.callbacks import CALLBACK_KIND, CALLBACKS_MAX, OF_SUBMISSIONS, Delivery
from domain.language.commands import (
    CancelJob,
    DeleteCallback,
    RotateCallbackSecret,
    SetCallback,
)
from domain.language.errors import TooManyCallbacks, UnknownCallback
from domain.language.events import (
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobSubmitted,
)
from domain.language.identifiers import CallbackName, JobId
from tests.support.given import Given, When, at, given
from tests.support.stories import BOB, ECHO, SLEEP, claim, complete, fail, started, submit
from tests.support.stories import submitted as told

URL = "https://a.example/hook"
NAME = CallbackName("orders")
SET = CallbackSet(name=NAME, url=URL)


def set_callback(name: str = "orders", **fields: Any) -> SetCallback:
    return SetCallback(name=CallbackName(name), **({"url": URL} | fields))


def deliveries(when: When) -> list[tuple[JobSubmitted, dict[str, Any]]]:
    """The submissions of deliveries, with their payloads."""
    bodies = dict(when.bodies)
    return [
        (one.event, msgspec.json.decode(bodies[one.position]))
        for one in when.recorded
        if isinstance(one.event, JobSubmitted) and one.event.delivery is not None
    ]


def running(**fields: Any) -> Given:
    return given(told(**fields), started())


def test_the_end_of_a_job_is_told_to_its_url_and_to_the_endpoints_for_it() -> None:
    kinds = replace(SET, name=CallbackName("kinds"), kinds=(SLEEP,))
    users = replace(SET, name=CallbackName("users"), users=(BOB,))
    own = "http://B.example:8080/?x"
    when = (
        given(SET, kinds, users)
        .when(submit(callback=own))
        .so.when(claim())
        .so.when(complete(job_id=JobId(5)))
    )
    assert isinstance(when.events[0], JobCompleted)
    [(first, mine), (second, theirs)] = deliveries(when)
    end = when.recorded[0].position
    assert first.delivery == Delivery(JobId(5), end)
    assert second.delivery == Delivery(JobId(5), end, NAME)
    assert (first.user_id, second.user_id) == (
        "fairlog.callback/b.example",
        "fairlog.callback/a.example",
    )
    assert (mine["url"], mine["callback"]) == (own, None)
    assert (theirs["url"], theirs["callback"]) == (URL, NAME)
    event = mine["event"]
    assert (event["id"], event["subject"]) == (str(when.recorded[1].position), "5")
    assert (event["type"], event["data"]["position"]) == ("fairlog.job.done", end)
    assert first.kind == second.kind == CALLBACK_KIND


def test_a_failure_that_is_tried_again_is_no_end_and_a_cancellation_is() -> None:
    story = given(SET, told(), started())
    job_id = JobId(2)
    again = story.when(fail(job_id=job_id))
    assert isinstance(again.events[0], JobFailed)
    assert deliveries(again) == []
    for command, event, state in (
        (fail(job_id=job_id, may_retry=False), JobFailed, "failed"),
        (CancelJob(job_id=job_id), JobCancelled, "cancelled"),
    ):
        when = story.when(command)
        assert isinstance(when.events[0], event)
        [(_, payload)] = deliveries(when)
        assert payload["event"]["data"]["state"] == state


def test_a_delivery_is_for_the_service_alone_and_its_end_is_not_told() -> None:
    ended = given(SET, told(), started()).when(complete(job_id=JobId(2))).so
    delivery = JobId(ended.recorded[-1].position)
    assert ended.when(claim(9)).answer(Claimed).jobs == []
    assert ended.when(claim(9, CALLBACK_KIND)).answer(Claimed).jobs == []
    given_ = ended.when(claim(9, CALLBACK_KIND, delivers=True))
    assert [job.id for job in given_.answer(Claimed).jobs] == [delivery]
    when = given_.so.when(complete(job_id=delivery))
    assert [type(one) for one in when.events] == [JobCompleted]


def test_a_host_has_two_deliveries_at_once() -> None:
    story = given()
    for number in range(3):
        story = story.when(submit(callback=URL, idempotency_key=str(number))).so
        [job] = story.when(claim()).answer(Claimed).jobs
        story = story.when(claim()).so.when(complete(job_id=job.id)).so
    assert len(story.when(claim(9, CALLBACK_KIND, delivers=True)).answer(Claimed).jobs) == 2


def test_an_endpoint_set_again_changes_nothing_and_one_that_is_not_there_is_refused() -> None:
    story = given().when(set_callback()).then(SET)
    story.when(set_callback()).then_nothing()
    changed = replace(SET, kinds=(ECHO,))
    story.when(set_callback(kinds=(ECHO,))).then(changed)
    story = story.when(DeleteCallback(name=NAME)).then(CallbackDeleted(name=NAME))
    for command in (DeleteCallback(name=NAME), RotateCallbackSecret(name=NAME)):
        story.when(command).then_refused(UnknownCallback)
    many = given(*(replace(SET, name=CallbackName(f"n{one}")) for one in range(CALLBACKS_MAX)))
    many.when(set_callback("more")).then_refused(TooManyCallbacks)
    many.when(set_callback("n1", kinds=(ECHO,))).then(
        replace(SET, name=CallbackName("n1"), kinds=(ECHO,))
    )


def test_after_a_rotation_both_secrets_sign_for_a_time_and_no_version_comes_back() -> None:
    rotated = CallbackSecretRotated(name=NAME, version=2, earlier_until=at(100))
    story = given(SET).when(RotateCallbackSecret(name=NAME, overlap_seconds=100)).then(rotated)
    row = story.model.callbacks.rows[NAME]
    assert row.versions(at(99.0)) == (2, 1)
    assert row.versions(at(100.0)) == (2,)
    story = story.when(DeleteCallback(name=NAME)).so.when(set_callback()).so
    assert story.model.callbacks.rows[NAME].version == 2
    by_url = given().when(RotateCallbackSecret(name=OF_SUBMISSIONS, overlap_seconds=0))
    by_url.then(replace(rotated, name=OF_SUBMISSIONS, earlier_until=at(0)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"delivery": Delivery(JobId(9), 4, NAME)}, "did not exist"),
        ({"delivery": Delivery(JobId(2), 2, NAME)}, "another end"),
        ({"delivery": Delivery(JobId(2), 9, NAME)}, "another end"),
        ({"delivery": Delivery(JobId(2), 4)}, "nobody"),
        ({"delivery": Delivery(JobId(2), 4, CallbackName("other"))}, "nobody"),
        ({"user_id": "fairlog.callback/b.example"}, "host"),
    ],
)
def test_a_delivery_that_was_not_to_be_is_illegal(changes: dict[str, Any], says: str) -> None:
    when = given(SET, told(), started()).when(complete(job_id=JobId(2)))
    *before, delivery = when.recorded
    model: WriteModel = given(SET, told(), started()).model
    for one in before:
        model.evolve(one)
    state = (model.callbacks, model.jobs.rows)
    assert miscalled(*state, delivery) is None
    assert isinstance(delivery.event, JobSubmitted)
    wrong = replace(delivery, event=replace(delivery.event, **changes))
    assert says in (miscalled(*state, wrong) or "")
    assert "another kind" in (check_callbacks(replace(delivery.event, kind=ECHO)) or "")
