from typing import Any

import pytest

from domain.language.commands import ChangeLimit
from domain.language.errors import InvalidInput
from domain.language.events import Scope
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.language.limits import Rate
from entrypoints.dashboard.limit_form import to_command

ADA, EXPORT = UserId("ada"), Kind("export")
USER = {"scope": "user", "name": "ada"}
KIND = {"scope": "kind", "name": "export"}
STARTS: Any = {"running": None, "throttle": None, "paused": None}
ALL = {"scope": "all", "name": ""}


@pytest.mark.parametrize(
    ("form", "command"),
    [
        (USER | {"limit": "50"}, ChangeLimit(scope=Scope.USER, user_id=ADA, limit=50)),
        (
            USER | {"limit": "50", "running": "2"},
            ChangeLimit(scope=Scope.USER, user_id=ADA, limit=50, running=2),
        ),
        (USER | {"action": "pause"}, ChangeLimit(scope=Scope.USER, user_id=ADA, paused=True)),
        (USER | {"action": "resume"}, ChangeLimit(scope=Scope.USER, user_id=ADA, paused=None)),
        (
            USER | {"action": "clear", "limit": "7"},
            ChangeLimit(
                scope=Scope.USER,
                user_id=ADA,
                plan=None,
                limit=None,
                windows=None,
                weight=None,
                max_attempts=None,
                priority_max=None,
                **STARTS,
            ),
        ),
        (
            USER | {"plan": "gold", "weight": "2.5", "throttle": "5/1s", "limit": "default"},
            ChangeLimit(
                scope=Scope.USER,
                user_id=ADA,
                plan=PlanName("gold"),
                weight=250,
                throttle=Rate(5, 1),
                limit=None,
            ),
        ),
        (
            {"scope": "plan", "name": "gold", "windows": "10/1s  1000/1h", "throttle": "default"},
            ChangeLimit(
                scope=Scope.PLAN,
                plan=PlanName("gold"),
                windows=(Rate(10, 1), Rate(1000, 3600)),
                throttle=None,
            ),
        ),
        (
            {"scope": "resource", "name": "shop:*", "throttle": "100/5m"},
            ChangeLimit(
                scope=Scope.RESOURCE, resource=ResourceName("shop:*"), throttle=Rate(100, 300)
            ),
        ),
        (KIND | {"running": "3"}, ChangeLimit(scope=Scope.KIND, kind=EXPORT, running=3)),
        (KIND | {"action": "pause"}, ChangeLimit(scope=Scope.KIND, kind=EXPORT, paused=True)),
        (
            USER | {"scope": "user_kind", "kind": "export", "action": "resume"},
            ChangeLimit(scope=Scope.USER_KIND, user_id=ADA, kind=EXPORT, paused=None),
        ),
        (
            {"scope": "resource", "name": "shop:*", "action": "pause"},
            ChangeLimit(scope=Scope.RESOURCE, resource=ResourceName("shop:*"), paused=True),
        ),
        (
            {"scope": "plan", "name": "gold", "action": "resume"},
            ChangeLimit(scope=Scope.PLAN, plan=PlanName("gold"), paused=None),
        ),
        (ALL | {"action": "pause"}, ChangeLimit(scope=Scope.GLOBAL, paused=True)),
        (KIND | {"action": "clear"}, ChangeLimit(scope=Scope.KIND, kind=EXPORT, **STARTS)),
        (ALL | {"limit": "0"}, ChangeLimit(scope=Scope.GLOBAL, limit=0)),
        (
            ALL | {"action": "clear"},
            ChangeLimit(scope=Scope.GLOBAL, limit=None, windows=None, paused=None),
        ),
    ],
)
def test_a_form_becomes_a_change(form: dict[str, str], command: ChangeLimit) -> None:
    assert to_command(form) == command


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (USER, "Enter what to set, such as a number of running jobs"),
        (USER | {"limit": "many"}, "A limit of submissions is a whole number from 0 to"),
        (USER | {"running": "-1"}, "A number of running jobs is a whole number"),
        (USER | {"action": "drop"}, "There is no action 'drop'"),
        (KIND | {"limit": "5"}, "A kind has no limit of submissions"),
        (ALL | {"running": "0"}, "no global limit of running jobs exists"),
        (KIND | {"weight": "2"}, "A kind has no limit of submissions, weight or plan"),
        (ALL | {"throttle": "5/1s"}, "throttle is for a user or a plan"),
        (USER | {"throttle": "5"}, "'5' is no limit and length of time, like 5/1s"),
        (USER | {"throttle": "0/1s"}, "A throttle has a limit of at least 1"),
        (USER | {"weight": "heavy"}, "A weight is a number from 0.01 to 1000, not 'heavy'"),
        (USER | {"weight": "nan"}, "weight is a number from 0.01 to 1,000"),
        ({"scope": "plan", "name": "x", "action": "clear"}, "Choose a user, a kind, a resource, a"),
        ({"scope": "team", "name": "x", "limit": "1"}, "Choose a user, a kind, a resource, a plan"),
        ({"scope": "user", "name": "", "limit": "1"}, "A user id must have"),
    ],
)
def test_what_is_no_change_is_refused_with_a_sentence(form: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        to_command(form)
