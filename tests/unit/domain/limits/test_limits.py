"""Limits that are set, and what follows from them for a user or a resource."""

from typing import Any

from msgspec.structs import replace

from domain.decisions.answers import Submitted
from domain.language.commands import ChangeLimit, DeletePlan
from domain.language.errors import BeyondLimits, PlanInUse, TooManyLimits, UnknownPlan
from domain.language.events import (
    LimitChanged,
    PlanDeleted,
    RateLimitDecided,
    Scope,
    WindowUse,
)
from domain.language.identifiers import DEFAULT_PLAN, Kind, PlanName, ResourceName
from domain.language.limits import Rate
from domain.limits import limits as module
from domain.limits.limits import NONE, Limits, Subject
from tests.support.given import Given, given
from tests.support.stories import ALICE, BOB, ECHO, admitted, submit, submitted

GOLD, FREE = PlanName("gold"), PlanName("free")


def of_plan(plan: PlanName = GOLD, **fields: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.PLAN, plan=plan, **fields)


def of_user(**fields: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.USER, user_id=ALICE, **fields)


def of_resource(name: str, **fields: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.RESOURCE, resource=ResourceName(name), **fields)


def limit_in(story: Given) -> int:
    [decided, *_] = story.when(submit()).events
    assert isinstance(decided, RateLimitDecided)
    return decided.limit


def test_each_value_is_the_user_s_own_or_that_of_the_plan() -> None:
    story = given().when(of_plan(limit=10, weight=300), of_user(plan=GOLD, running=2)).so
    assert story.model.limits.of_user(ALICE) == Limits(
        submissions=10, running=2, plan=GOLD, weight=300
    )
    assert story.model.limits.of_user(BOB) == NONE
    story = story.when(of_user(limit=3)).so
    assert story.model.limits.of_user(ALICE).submissions == 3
    assert limit_in(story) == 3


def test_a_user_whom_nobody_put_on_a_plan_is_on_the_default_one_once_it_is_set() -> None:
    story = given().when(of_plan(FREE, limit=9), of_user(running=1)).so
    assert limit_in(story) == 600
    story = story.when(of_plan(DEFAULT_PLAN, limit=5)).so
    assert limit_in(story) == 5
    assert story.model.limits.of_user(ALICE) == Limits(submissions=5, running=1, plan=DEFAULT_PLAN)
    story = story.when(DeletePlan(plan=DEFAULT_PLAN)).then(PlanDeleted(plan=DEFAULT_PLAN))
    assert limit_in(story) == 600


def test_a_plan_is_changed_for_all_its_users_by_one_event() -> None:
    changed = LimitChanged(scope=Scope.PLAN, plan=GOLD, limit=7, windows=(Rate(1, 1),))
    story = given().when(of_plan(limit=5, windows=(Rate(1, 1),)), of_user(plan=GOLD)).so
    story = story.when(of_plan(limit=7)).then(changed)
    assert limit_in(story) == 7
    story.when(of_plan(limit=7)).then()


def test_a_plan_that_nobody_made_is_refused_and_one_without_limits_exists() -> None:
    given().when(of_user(plan=GOLD)).then_refused(UnknownPlan)
    given().when(DeletePlan(plan=GOLD)).then_refused(UnknownPlan)
    story = given().when(of_plan()).then(LimitChanged(scope=Scope.PLAN, plan=GOLD))
    story.when(of_user(plan=GOLD)).then(LimitChanged(scope=Scope.USER, user_id=ALICE, plan=GOLD))


def test_a_plan_is_deleted_only_when_nobody_is_on_it() -> None:
    story = given().when(of_plan(), of_plan(FREE), of_user(plan=GOLD)).so
    story.when(DeletePlan(plan=GOLD)).then_refused(PlanInUse)
    story = story.when(of_user(plan=FREE)).so
    story.when(DeletePlan(plan=GOLD)).then(PlanDeleted(plan=GOLD))
    story.when(DeletePlan(plan=FREE)).then_refused(PlanInUse)
    story = story.when(of_user(plan=None), DeletePlan(plan=FREE)).so
    assert story.model.limits.users_on == {}


def test_a_resource_has_its_own_limits_or_those_of_the_longest_prefix() -> None:
    wishes = [
        of_resource("shop:*", running=1),
        of_resource("shop:a*", running=2),
        of_resource("shop:a", running=3),
        of_resource("*", running=4),
    ]
    settings = given().when(*wishes).so.model.limits
    for name, running in {
        "shop:": 1,
        "shop:b": 1,
        "shop:ab": 2,
        "shop:a": 3,
        "shop": 4,
        "other": 4,
    }.items():
        assert settings.of_resource(ResourceName(name)).running == running, name


def test_only_so_many_subjects_have_limits_and_removed_ones_do_not_count(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(module, "SUBJECTS_MAX", 2)
    of_kind = ChangeLimit(scope=Scope.USER_KIND, user_id=ALICE, kind=ECHO, running=1)
    story = given().when(of_kind, of_resource("a", running=1)).so
    story.when(of_plan()).then_refused(TooManyLimits)
    story = story.when(of_resource("a", running=2), of_user(limit=1)).so
    story = story.when(replace(of_kind, running=None)).so
    assert story.model.limits.of(Subject(ALICE, ECHO)) == NONE
    story = story.when(of_plan()).so
    story.when(ChangeLimit(scope=Scope.KIND, kind=Kind("b"), running=1)).then_refused(TooManyLimits)


def test_a_job_that_asks_for_more_than_the_plan_allows_is_refused() -> None:
    story = given().when(of_plan(max_attempts=2, priority_max=-1), of_user(plan=GOLD)).so
    story.when(submit(max_attempts=3)).then_refused(BeyondLimits, admitted())
    story.when(submit(priority=1)).then_refused(BeyondLimits, admitted())
    story.when(submit(BOB, max_attempts=3, priority=1)).answer(Submitted)
    job = story.when(submit()).answer(Submitted).job
    assert (job.attempts_granted, job.priority) == (2, -1)


def test_two_windows_admit_what_both_allow_and_the_later_end_is_named() -> None:
    windows = (Rate(2, 1), Rate(3, 60))
    story = given().when(of_user(windows=windows)).so
    for used in (1, 2):
        uses = tuple(WindowUse(Scope.USER, rate.limit, rate.seconds, used) for rate in windows)
        story = story.when(submit(payload=used)).then(
            admitted(used=used, windows=uses), submitted(payload=used)
        )
    refused = story.when(submit(payload=3)).events[0]
    assert isinstance(refused, RateLimitDecided)
    assert (refused.limit, refused.used, refused.window_name) == (2, 2, "user-1s")
    assert WindowUse(Scope.USER, 600, 60, 2, is_default=True) in refused.windows
    story = story.after(1).when(submit(payload=4)).so.after(1)
    refused = story.when(submit(payload=5)).events[0]
    assert isinstance(refused, RateLimitDecided)
    assert (refused.limit, refused.used, refused.window_name) == (3, 3, "user-60s")
    story.after(58).when(submit(payload=6)).answer(Submitted)
