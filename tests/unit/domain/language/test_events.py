"""Events are stored for ever: what an earlier release wrote is read by every later one."""

import types
import typing
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec import Struct

from domain.language.events import (
    EVENT_TYPES,
    AfterFailure,
    CancelReason,
    CorrectionReason,
    EndReason,
    Event,
    FailureReason,
    JobSubmitted,
    LeasesExtended,
    RateLimitDecided,
    RequeueReason,
    Role,
    Scope,
    decode,
    encode,
    type_of,
)
from domain.language.moments import from_micros
from domain.language.schedules import Overlap, RunCause, RunOutcome
from tests.support.given import NOW
from tests.support.repository import TESTS
from tests.support.stories import ALICE, admitted, extended, submitted

CORPUS = TESTS / "corpus" / "events_v1.ndjson"
LINES = CORPUS.read_bytes().splitlines()


S = TypeVar("S", bound=Struct)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of this type may hold."""
    if isinstance(hint, typing.NewType):
        return values(hint.__supertype__)
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            return st.one_of([values(argument) for argument in arguments])
        case typing.Literal:
            return st.sampled_from(arguments)
        case origin if origin is tuple and arguments[-1] is ...:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        case origin if origin is tuple:
            return st.tuples(*[values(argument) for argument in arguments])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and issubclass(hint, Struct):
        return any_of(hint)
    return {
        str: st.text(st.characters(exclude_categories=["Cs"])),
        int: st.integers(-(2**63), 2**63 - 1),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        datetime: st.integers(0, 221_845_392_000_000_000).map(from_micros),
        type(None): st.none(),
    }[hint]


def any_of(cls: type[S]) -> st.SearchStrategy[S]:
    hints = typing.get_type_hints(cls)
    fields = {name: values(hints[name]) for name in cls.__struct_fields__}
    return st.builds(cls, **fields)


@for_all(event=st.one_of([any_of(cls) for cls in EVENT_TYPES.values()]))
def test_every_event_comes_back_as_it_was(event: Event) -> None:
    stored = encode(event)
    again = decode(stored)
    assert again == event
    assert type(again) is type(event)
    assert encode(again) == stored


def test_the_types_are_those_that_are_documented() -> None:
    assert list(EVENT_TYPES) == [
        "RateLimitDecided",
        "JobSubmitted",
        "SubmissionDeduplicated",
        "JobReleased",
        "JobStarted",
        "LeasesExtended",
        "JobCompleted",
        "JobFailed",
        "JobRequeued",
        "JobCancelled",
        "LimitChanged",
        "BodiesErased",
        "ClockCorrected",
        "AttemptBegun",
        "AttemptEnded",
        "WorkerMissed",
        "KeyCreated",
        "KeyRotated",
        "KeyRevoked",
        "WrongKeysRefused",
        "ProgressReported",
        "PlanDeleted",
        "LineUpdated",
        "ArchiveBegun",
        "SegmentArchived",
        "SegmentRewritten",
        "ArchiveCompleted",
        "ParentEnded",
        "ScheduleSet",
        "ScheduleDeleted",
        "ScheduleFired",
        "ScheduleBackfillBegun",
        "CallbackSet",
        "CallbackDeleted",
        "CallbackSecretRotated",
        "EventLost",
        "LossAccepted",
    ]


@pytest.mark.parametrize("name", list(EVENT_TYPES))
def test_the_tag_is_written_out_first(name: str) -> None:
    cls = EVENT_TYPES[name]
    assert cls.__struct_config__.tag_field == "type"
    written = [line for line in LINES if line.startswith(b'{"type":"%s"' % name.encode())]
    assert [type(decode(line)) for line in written] == [cls] * len(written)
    assert type_of(decode(written[0])) == name


def test_the_values_of_every_enumeration_are_those_that_are_stored() -> None:
    stored = {
        cls.__name__: [one.value for one in cls]
        for cls in (
            Scope,
            FailureReason,
            RequeueReason,
            CancelReason,
            CorrectionReason,
            EndReason,
            Role,
            AfterFailure,
            Overlap,
            RunCause,
            RunOutcome,
        )
    }
    assert stored == {
        "Scope": ["user", "global", "kind", "user_kind", "plan", "resource"],
        "FailureReason": ["error", "timed_out", "lease_lost", "server_restarted", "parent_failed"],
        "RequeueReason": ["lease_lost", "server_restarted", "given_back", "retried"],
        "CancelReason": ["requested", "expired", "parent_failed"],
        "CorrectionReason": ["stepped", "log_ahead", "caught_up", "accepted"],
        "EndReason": ["reported", "lease_lost"],
        "Role": ["submitter", "worker", "reader", "operator", "admin"],
        "AfterFailure": ["fail", "cancel", "run"],
        "Overlap": ["skip", "buffer_one", "allow_all", "cancel_other"],
        "RunCause": ["time", "buffer", "trigger", "backfill"],
        "RunOutcome": ["submitted", "buffered", "overlap", "missed", "deferred", "refused"],
    }


# The corpus


@pytest.mark.parametrize("line", LINES, ids=range(1, len(LINES) + 1))
def test_what_was_stored_once_is_read_for_ever_and_means_the_same(line: bytes) -> None:
    event = decode(line)
    assert msgspec.json.decode(encode(event)) == msgspec.json.decode(line)


def test_the_corpus_has_every_type_bare_and_with_every_field() -> None:
    seen = {
        name: [msgspec.json.decode(line) for line in LINES if type_of(decode(line)) == name]
        for name in EVENT_TYPES
    }
    for name, cls in EVENT_TYPES.items():
        required = {field.name for field in msgspec.structs.fields(cls) if field.required}
        assert {"type", *required} in [set(line) for line in seen[name]], name
        assert {"type", *cls.__struct_fields__} == set().union(*seen[name]), name


def test_a_newer_release_s_fields_are_skipped() -> None:
    for line in LINES:
        newer = msgspec.json.decode(line) | {"added_later": {"deep": [1]}, "another": None}
        assert decode(msgspec.json.encode(newer)) == decode(line)


@pytest.mark.parametrize(
    "stored",
    [
        b'{"type":"JobExploded","user_id":"alice"}',
        b'{"user_id":"alice"}',
        b'{"type":"JobReleased","user_id":"alice"}',
        b'{"type":"JobReleased","user_id":1,"kind":"echo"}',
        b"[]",
        b"",
    ],
)
def test_what_no_release_wrote_is_an_error(stored: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(stored)


# How they are stored


def test_an_event_is_compact_and_leaves_out_what_is_as_usual() -> None:
    assert encode(submitted()) == (
        b'{"type":"JobSubmitted","user_id":"alice","kind":"echo",'
        b'"payload_sha256":"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",'
        b'"payload_bytes":1,"max_attempts":3,"idempotency_key":'
        b'"736db77f1115f76b015971a477d37712cdcd993786313dc4769aee1a74a22170",'
        b'"key_expires_at":"2023-11-15T22:14:00Z"}'
    )
    assert encode(admitted()) == (
        b'{"type":"RateLimitDecided","user_id":"alice","scope":"user","allowed":true,"used":1,'
        b'"limit":600,"window_start":"2023-11-14T22:14:00Z","window_seconds":60,"global_used":1,'
        b'"global_limit":6000}'
    )
    assert encode(extended((1, 2), (3, 1))) == (
        b'{"type":"LeasesExtended","worker":"worker-1",'
        b'"lease_expires_at":"2023-11-14T22:14:30Z","jobs":[[1,2],[3,1]]}'
    )


def test_moments_keep_their_microseconds() -> None:
    event = LeasesExtended(
        worker=typing.cast("Any", "w"),
        lease_expires_at=datetime(2026, 2, 3, 4, 5, 6, 7, UTC),
        jobs=(),
    )
    assert b'"2026-02-03T04:05:06.000007Z"' in encode(event)


def test_events_are_frozen() -> None:
    event = submitted()
    assert isinstance(event, JobSubmitted)
    with pytest.raises(AttributeError):
        event.user_id = ALICE  # type: ignore[misc]  # that is the point
    assert isinstance(admitted(), RateLimitDecided)
    assert admitted().window_start == NOW
