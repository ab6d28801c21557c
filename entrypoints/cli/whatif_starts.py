"""The options of `fairlog whatif` for throttles and weights, and its table of waits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import rich_click as click

from domain.audit.start_outcomes import StartOutcome, Waited, together
from domain.audit.start_replay import OtherStarts
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import UserId
from domain.language.limits import Rate
from domain.limits.limits import Subject
from entrypoints.cli.limits import DEFAULT
from entrypoints.cli.output import echo, note, printable
from entrypoints.http.limit_requests import parse_rate
from entrypoints.use_cases.whatif_starts import StartsResult

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

_ROW: Final = "{:<32}  {:>9}  {:>9}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>9}  {:>9}  {:>9}  {}"
_SUBJECTS: Final[dict[str, tuple[str, Callable[[str], Subject]]]] = {
    "--throttle": ("USER", lambda name: Subject(validation.user_id(name))),
    "--kind-throttle": ("KIND", lambda name: Subject(kind=validation.kind(name))),
    "--resource-throttle": (
        "RESOURCE",
        lambda name: Subject(resource=validation.resource_setting(name)),
    ),
    "--plan-throttle": ("PLAN", lambda name: Subject(plan=validation.plan_name(name))),
    "--weight": ("USER", lambda name: Subject(validation.user_id(name))),
    "--plan-weight": ("PLAN", lambda name: Subject(plan=validation.plan_name(name))),
}
_TEXTS: Final = {
    "--throttle": "Starts of a user's jobs in each window, like alice=5/1s.",
    "--kind-throttle": "Starts of jobs of a kind, likewise.",
    "--resource-throttle": "Starts of jobs that use a resource, or each one of a prefix and *.",
    "--plan-throttle": "Starts of jobs of each user on a plan.",
    "--weight": "The weight of a user, 0.01 to 1000, like alice=2.",
    "--plan-weight": "The weight of each user on a plan.",
}


def _name(flag: str) -> str:
    return flag[2:].replace("-", "_")


def start_options(command: F) -> F:
    """Add the options to a command, as one argument: `other_starts`."""
    for flag in reversed(list(_SUBJECTS)):
        what = "N" if flag.endswith("weight") else "N/TIME"
        command = click.option(
            flag,
            multiple=True,
            metavar=f"{_SUBJECTS[flag][0]}={what}",
            help=f"{_TEXTS[flag]} Repeatable; `{DEFAULT}`: none is set.",
        )(command)
    return command


def other_starts(options: Mapping[str, Sequence[str]]) -> OtherStarts:
    """Return what the options ask for. Raises `BadParameter`."""
    throttles: dict[Subject, Rate | None] = {}
    weights: dict[Subject, int | None] = {}
    for flag in _SUBJECTS:
        for text in options[_name(flag)]:
            if flag.endswith("weight"):
                subject, weight = _parsed(flag, text, _weight)
                weights[subject] = weight
            else:
                subject, throttle = _parsed(flag, text, _throttle)
                throttles[subject] = throttle
    return OtherStarts(throttles=throttles, weights=weights)


def _parsed(flag: str, text: str, parse: Callable[[str], T]) -> tuple[Subject, T | None]:
    form, subject = _SUBJECTS[flag]
    name, equals, value = text.rpartition("=")
    try:
        if equals:
            return subject(name), None if value == DEFAULT else parse(value)
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint=flag) from None
    except ValueError:
        pass
    what = "a weight, like 2 or 0.5" if flag.endswith("weight") else "a rate, like 5/1s or 100/1h"
    raise click.BadParameter(
        f"{text!r} is not {form}= and {what}, nor `{DEFAULT}`.", param_hint=flag
    )


def _weight(text: str) -> int:
    return validation.weight(float(text))


def _throttle(text: str) -> Rate:
    rate = parse_rate(text)
    return validation.rate(rate.limit, rate.seconds, "throttle")


def starts_document(result: StartsResult) -> dict[str, Any]:
    return {
        "users": [{"user_id": user_id, **_numbers(one)} for user_id, one in _ordered(result)],
        "total": _numbers(together(list(result.users.values()))),
    }


def _numbers(one: StartOutcome) -> dict[str, Any]:
    return {
        "later": one.later,
        "sooner": one.sooner,
        "recorded": _waited(one.recorded),
        "replayed": _waited(one.replayed),
    }


def _waited(one: Waited) -> dict[str, Any]:
    return {
        "started": one.started,
        "waiting": one.waiting,
        "p50_seconds": one.seconds(0.5),
        "p95_seconds": one.seconds(0.95),
        "max_seconds": one.seconds(1),
    }


def _ordered(result: StartsResult) -> list[tuple[UserId, StartOutcome]]:
    """Order users by how many of their starts would change, the most first."""
    return sorted(result.users.items(), key=lambda item: (-item[1].later - item[1].sooner, item[0]))


def print_starts(result: StartsResult, users_max: int) -> None:
    echo(
        _ROW.format(
            *("user", "starts", "would be", "later", "sooner"),
            *("p50", "p95", "max"),
            *("would p50", "would p95", "would max"),
            "",
        ).rstrip()
    )
    ordered = _ordered(result)
    for user_id, one in ordered[:users_max]:
        echo(_row(printable(user_id), one))
    echo(_row("all together", together([one for _, one in ordered])))
    if len(ordered) > users_max:
        note(f"{len(ordered) - users_max:,} more users: raise --limit to see them.")


def _row(name: str, one: StartOutcome) -> str:
    counts = (one.recorded.started, one.replayed.started, one.later, one.sooner)
    waits = (waited.seconds(share) for waited in (one.recorded, one.replayed) for share in _SHARES)
    left = one.replayed.waiting
    return _ROW.format(
        name,
        *(f"{count:,}" for count in counts),
        *("-" if wait is None else f"{wait:,.2f} s" for wait in waits),
        f"{left:,} would still wait" if left else "",
    ).rstrip()


_SHARES: Final = (0.5, 0.95, 1.0)
