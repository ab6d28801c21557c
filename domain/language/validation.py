"""Validation of values from outside, the same for every entrypoint. All raise `InvalidInput`."""

import contextlib
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar, cast, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from domain.language.callbacks import (
    CALLBACK_KIND,
    CALLBACK_USERS,
    NAMED_MAX,
    OF_SUBMISSIONS,
    delivery_user,
)
from domain.language.commands import SubmitJob
from domain.language.errors import InvalidInput
from domain.language.events import AfterFailure
from domain.language.identifiers import (
    POSITION_MAX,
    CallbackName,
    JobId,
    KeyName,
    Kind,
    PlanName,
    ResourceName,
    ScheduleName,
    UserId,
    WorkerId,
)
from domain.language.limits import Backoff, PushEndpoint, Rate, RetryPolicy
from domain.language.moments import UNIX_EPOCH

N = TypeVar("N", bound=str)

NAME_BYTES_MAX: Final = 255
ATTEMPTS_MAX: Final = 1000
RESOURCES_MAX: Final = 3  # of one job
# Jobs that one job comes after: as many as one batch submits, so that one can gather all of them.
# The writer has each of them in memory to decide the submission.
AFTER_MAX: Final = 1000
PRIORITY_MAX: Final = 1000  # the minimum is its negative
TIMEOUT_SECONDS_MAX: Final = 7 * 86_400
PROGRESS_CHARACTERS_MAX: Final = 500  # of a message
URL_CHARACTERS_MAX: Final = 2_048
VERSION_MAX: Final = 1_000_000
RETRY_IN_SECONDS_MAX: Final = 31_622_400  # 366 days
FACTOR_MAX: Final = 100  # of an exponential backoff
NEVER_MAX: Final = 20  # types of errors in a retry policy
AFTER_FAILURES: Final = tuple(one.value for one in AfterFailure)
BACKOFFS: Final[tuple[str, ...]] = get_args(Backoff)
LIMIT_MAX: Final = 1_000_000_000
WINDOW_SECONDS_MAX: Final = 31 * 86_400
WINDOWS_MAX: Final = 5  # further limits of submissions of one subject
WEIGHT_MAX: Final = 1_000
KEY_NAME_CHARACTERS_MAX: Final = 64
_DIGITS_MAX: Final = len(str(POSITION_MAX))
_TIME: Final = re.compile(  # RFC 3339, section 5.6
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FARTHEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def user_id(text: str) -> UserId:
    return UserId(_name(text, "user id"))


def kind(text: str) -> Kind:
    return Kind(_name(text, "kind"))


def worker_id(text: str) -> WorkerId:
    return WorkerId(_name(text, "worker"))


def plan_name(text: str) -> PlanName:
    return PlanName(_name(text, "plan"))


def schedule_name(text: str) -> ScheduleName:
    return ScheduleName(_name(text, "schedule's name"))


def resource(text: str) -> ResourceName:
    """Check the name of a resource that a submission gives."""
    if "*" in text:
        raise InvalidInput(
            f"A job names whole resources, without *; a limit may be for a prefix: {text!r}."
        )
    return ResourceName(_name(text, "resource"))


def resource_setting(text: str) -> ResourceName:
    """Check the name of a resource that gets limits, or a prefix and `*`."""
    if "*" in text[:-1]:
        raise InvalidInput(
            f"In the name of a resource, * stands at the end (shopify:*) or not at all: {text!r}."
        )
    return ResourceName(_name(text, "resource"))


def rate(limit: int, seconds: int, what: str) -> Rate:
    """Check a limit per window; `what` is its name in the message."""
    return Rate(
        _whole(limit, 0, LIMIT_MAX, f"The limit of {what}"),
        _whole(seconds, 1, WINDOW_SECONDS_MAX, f"The window of {what}, in seconds,"),
    )


def windows(rates: Sequence[Rate]) -> tuple[Rate, ...]:
    """Return checked limits of submissions, the shortest window first."""
    if len(rates) > WINDOWS_MAX:
        raise InvalidInput(f"windows has at most {WINDOWS_MAX} entries; this has {len(rates)}.")
    found = [rate(one.limit, one.seconds, "windows") for one in rates]
    if len({one.seconds for one in found}) < len(found):
        raise InvalidInput("windows has one limit for each length; two have the same seconds.")
    return tuple(sorted(found, key=lambda one: one.seconds))


def weight(number: float) -> int:
    """Return a weight of 0.01 to 1,000 in hundredths."""
    hundredths = round(number * 100) if math.isfinite(number) else 0
    if not 1 <= hundredths <= WEIGHT_MAX * 100 or not math.isclose(hundredths, number * 100):
        raise InvalidInput(
            f"weight is a number from 0.01 to {WEIGHT_MAX:,} with at most two decimals; to start "
            "no job of a user, pause the user."
        )
    return hundredths


def key_name(text: str) -> KeyName:
    return KeyName(_short_name(text, "key"))


def _short_name(text: str, what: str) -> str:
    if len(text) > KEY_NAME_CHARACTERS_MAX or _KEY_NAME.fullmatch(text) is None:
        raise InvalidInput(
            f"The name of a {what} has 1 to {KEY_NAME_CHARACTERS_MAX} letters, digits, dots, "
            "underscores and hyphens, and begins with a letter or digit."
        )
    return text


def idempotency_key(text: str) -> str:
    return _name(text, "idempotency key")


def claim_id(text: str) -> str:
    return _name(text, "claim id")


def job_id(number: int) -> JobId:
    if not 1 <= number <= POSITION_MAX:
        raise InvalidInput(f"A job id is a whole number from 1 to {POSITION_MAX}.")
    return JobId(number)


def attempt(number: int) -> int:
    """Clamp an attempt number to what the log can store; no job has an attempt out of range."""
    return max(-1, min(number, POSITION_MAX))


def timeout_seconds(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= TIMEOUT_SECONDS_MAX):
        raise InvalidInput(
            f"timeout_seconds is a number above 0, at most {TIMEOUT_SECONDS_MAX} (7 days)."
        )
    return seconds


def push_endpoint(endpoint: PushEndpoint) -> PushEndpoint:
    """Check an endpoint; whether its address may be used is known when its name is resolved."""
    _http_url(endpoint.url, "push.url")
    timeout_seconds(endpoint.timeout_seconds)
    _whole(endpoint.secret_version, 1, VERSION_MAX, "push.secret_version")
    return endpoint


def max_attempts(number: int) -> int:
    return _whole(number, 1, ATTEMPTS_MAX, "max_attempts")


def priority(number: int) -> int:
    return _whole(number, -PRIORITY_MAX, PRIORITY_MAX, "priority")


def resources(names: Collection[str]) -> tuple[ResourceName, ...]:
    """Check the resources of a job; return each once, in order."""
    found = tuple(sorted(set(map(resource, names))))
    if len(found) > RESOURCES_MAX:
        raise InvalidInput(
            f"A job uses at most {RESOURCES_MAX} resources; this one names {len(found)}. Name only "
            "those that have limits."
        )
    return found


def retry_in_seconds(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 <= seconds <= RETRY_IN_SECONDS_MAX):
        raise InvalidInput(
            f"retry_in_seconds is a number from 0 to {RETRY_IN_SECONDS_MAX} (366 days)."
        )
    return seconds


def backoff(name: str | None) -> Backoff | None:
    if name is not None and name not in BACKOFFS:
        raise InvalidInput(f"retry.backoff is {', '.join(BACKOFFS[:-1])} or {BACKOFFS[-1]}.")
    return cast("Backoff | None", name)


def retry_policy(policy: RetryPolicy) -> RetryPolicy:
    if policy.attempts is not None:
        _whole(policy.attempts, 1, ATTEMPTS_MAX, "retry.attempts")
    base, most = policy.base_seconds, policy.maximum_seconds
    _number(base, 0, RETRY_IN_SECONDS_MAX, "retry.base_seconds")
    _number(most, 0, RETRY_IN_SECONDS_MAX, "retry.maximum_seconds")
    _number(policy.factor, 1, FACTOR_MAX, "retry.factor")
    _number(policy.jitter, 0, 1, "retry.jitter")
    if base is not None and most is not None and base > most:
        raise InvalidInput("retry.maximum_seconds must not be below retry.base_seconds.")
    if len(policy.never or ()) > NEVER_MAX:
        raise InvalidInput(f"retry.never has at most {NEVER_MAX} types of errors.")
    for name in policy.never or ():
        _name(name, "type of error in retry.never")
    return policy


def after(job_ids: Collection[int]) -> tuple[JobId, ...]:
    """Check the jobs that another one comes after, and put them in order."""
    if len(job_ids) > AFTER_MAX:
        raise InvalidInput(
            f"after names at most {AFTER_MAX} jobs; this names {len(job_ids)}. Let jobs in between "
            "gather some of them each."
        )
    ordered = sorted(set(job_ids))
    if len(ordered) < len(job_ids):
        raise InvalidInput("after names a job twice; name each once.")
    return tuple(map(job_id, ordered))


def after_failure(text: str | None, *, has_parents: bool) -> AfterFailure:
    """Check what becomes of a job if one that it comes after fails; None: the default."""
    if text is None:
        return AfterFailure.FAIL
    if not has_parents:
        raise InvalidInput("after_failure is for a job with after; leave it out.")
    if text not in AFTER_FAILURES:
        raise InvalidInput(f"after_failure is one of {', '.join(AFTER_FAILURES)}.")
    return AfterFailure(text)


def callback_url(text: str) -> str:
    """Check a URL that callbacks are sent to. Whether its address is allowed is seen when it is
    connected to.
    """
    _http_url(text, "The URL of a callback")
    if len(delivery_user(text)) > NAME_BYTES_MAX:
        most = NAME_BYTES_MAX - len(CALLBACK_USERS)
        raise InvalidInput(f"The host of a callback has at most {most} characters.")
    return text


def _http_url(text: str, what: str) -> None:
    """Check a URL that servers send requests to."""
    if not 1 <= len(text) <= URL_CHARACTERS_MAX:
        raise InvalidInput(f"{what} has 1 to {URL_CHARACTERS_MAX} characters.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    is_plain = text.isascii() and text.isprintable() and not {" ", "\\"}.intersection(text)
    if not is_plain or host is None or port == 0 or parts.scheme not in {"http", "https"}:
        raise InvalidInput(
            f"{what} begins with http:// or https:// and a host, and is ASCII: encode other "
            "characters (https://example.org/caf%C3%A9)."
        )
    if "@" in parts.netloc:
        raise InvalidInput(f"{what} has no user and no password: requests are signed instead.")


def callback_name(text: str) -> CallbackName:
    return CallbackName(_short_name(text, "callback endpoint"))


def endpoint_name(text: str) -> CallbackName:
    """Check the name of an endpoint, which is not the one that stands for URLs of submissions."""
    if text == OF_SUBMISSIONS:
        raise InvalidInput(
            f"The name {OF_SUBMISSIONS!r} stands for the URLs that come with jobs; choose another."
        )
    return callback_name(text)


def callback_kinds(names: Collection[str]) -> tuple[Kind, ...]:
    """Check the kinds of an endpoint; return each once, in order."""
    return _each_once(names, kind, "kind")


def callback_users(names: Collection[str]) -> tuple[UserId, ...]:
    """Check the users of an endpoint; return each once, in order."""
    return _each_once(names, user_id, "user")


def _each_once(names: Collection[str], check: Callable[[str], N], what: str) -> tuple[N, ...]:
    found = tuple(sorted({check(one) for one in names}))
    if len(found) > NAMED_MAX:
        raise InvalidInput(
            f"{what}s names at most {NAMED_MAX} {what}s; leave it out for any {what}."
        )
    return found


def not_reserved(user: UserId, kind: Kind) -> None:
    """Refuse what is for the service's own jobs."""
    if kind == CALLBACK_KIND or user.startswith(CALLBACK_USERS):
        raise InvalidInput(
            f"The kind {CALLBACK_KIND!r} and users that begin with {CALLBACK_USERS!r} are for "
            "callbacks, which the service submits itself; choose other names."
        )


def submission(command: SubmitJob) -> SubmitJob:
    """Check what no single field of a submission shows, and give it one form: the attempts of its
    retry policy are its `max_attempts`.
    """
    if command.idempotency_key is not None and command.deduplicate is False:
        raise InvalidInput(
            'An idempotency key and "deduplicate": false contradict each other; send only one.'
        )
    not_reserved(command.user_id, command.kind)
    run_at, expires_at = command.run_at, command.expires_at
    if run_at is not None and expires_at is not None and expires_at <= run_at:
        raise InvalidInput("expires_at must be later than run_at.")
    return command if command.retry is None else _with_attempts(command, command.retry)


def _with_attempts(command: SubmitJob, retry: RetryPolicy) -> SubmitJob:
    attempts = retry.attempts or command.max_attempts
    if command.max_attempts not in {None, attempts}:
        raise InvalidInput("max_attempts and retry.attempts differ; send only one.")
    retry = replace(retry, attempts=None)
    return replace(command, max_attempts=attempts, retry=None if retry == RetryPolicy() else retry)


def moment(value: datetime, what: str) -> datetime:
    """Convert a time with an offset to UTC, from 1970 to 9000."""
    if value.tzinfo is None:
        raise InvalidInput(f"{what} needs an offset: 2026-01-31T12:00:00Z.")
    if not UNIX_EPOCH <= value <= _FARTHEST:
        raise InvalidInput(f"{what} is a time between the years 1970 and 9000.")
    return UNIX_EPOCH + (value - UNIX_EPOCH)


def whole_number(text: str, what: str, least: int, most: int) -> int:
    """Parse ASCII digits, at most as many as the largest position has; the range is inclusive."""
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX:
        return _whole(int(text), least, most, what)
    raise InvalidInput(f"{what} is a whole number from {least} to {most}.")


def time(text: str, what: str) -> datetime:
    """Parse a time in the form of RFC 3339, section 5.6, and convert it to UTC."""
    if _TIME.fullmatch(text):
        with contextlib.suppress(msgspec.ValidationError):
            return moment(msgspec.convert(text, datetime), what)
    raise InvalidInput(f"{what} is a time with an offset, like 2026-01-31T12:00:00Z.")


def as_of(text: str) -> int | datetime:
    """Parse a point of the log: a position (digits), or a time (RFC 3339).

    A time stands for the latest event that was recorded at or before it.
    """
    if text.isascii() and text.isdigit():
        return whole_number(text, "as_of", 0, POSITION_MAX)
    if _TIME.fullmatch(text):
        return time(text, "as_of")
    raise InvalidInput(
        "as_of is a position of the log, like 1042, or a time with an offset, like "
        "2026-01-31T12:00:00Z."
    )


def _whole(number: int, least: int, most: int, what: str) -> int:
    if not least <= number <= most:
        raise InvalidInput(f"{what} is a whole number from {least} to {most}.")
    return number


def _number(number: float | None, least: float, most: float, what: str) -> None:
    if number is not None and not least <= number <= most:
        raise InvalidInput(f"{what} is a number from {least} to {most}.")


def _name(text: str, what: str) -> str:
    if text.isascii() and text.isprintable() and 1 <= len(text) <= NAME_BYTES_MAX:
        return text  # fast path
    size = len(_utf8(text, what))
    if not 1 <= size <= NAME_BYTES_MAX:
        raise InvalidInput(
            f"A {what} must have 1 to {NAME_BYTES_MAX} bytes of UTF-8; this one has {size}."
        )
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise InvalidInput(f"A {what} must hold no control characters.")
    return text


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"A {what} must be valid Unicode, without lone surrogates.") from None
