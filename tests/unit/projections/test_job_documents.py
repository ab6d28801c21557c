from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec import NODEFAULT
from msgspec.msgpack import Encoder
from msgspec.structs import fields, replace

from domain.jobs.job import Ending, Job, State
from domain.language.digests import packed, unpacked
from domain.language.identifiers import JobId, Kind, ResourceName, UserId, WorkerId
from projections.inline.job_documents import decode_job, encode_job

NOW = datetime(2026, 11, 29, 21, 18, 51, 123_456, UTC)
encode_moment = Encoder().encode
JOB = Job(
    id=JobId(2),
    user_id=UserId("alicé"),
    kind=Kind("echo"),
    state=State.DONE,
    attempts_granted=3,
    submitted_at=NOW,
    updated_at=NOW,
    payload_digest=bytes(32),
    payload_bytes=7,
    key=b"order-17",
    key_is_explicit=True,
    key_expires_at=NOW,
    outcome=b"done",
)
# A value of each field that may be left out.
OTHERS: dict[str, Any] = {
    "started_at": NOW,
    "begun_at": NOW,
    "finished_at": NOW,
    "worker": "w",
    "claim_id": "c",
    "outcome": b"failed",
    "holder": "key",
    "lease_expires_at": NOW,
    "server": "s",
    "run_at": NOW,
    "expires_at": NOW,
    "timeout_seconds": 1.5,
    "resources": (ResourceName("gpu"),),
    "retry": None,
    "failure": "timed_out",
    "holds_key": False,
    "is_suspect": True,
    "ending": (Ending(1, WorkerId("w"), NOW),),
    "progress": 0.5,
    "progress_at": NOW,
    "erased_at": NOW,
    "after": (JobId(1), JobId(2)),
    "after_failure": "run",
    "waits_for": (JobId(2),),
    "callback": "https://a.example/",
    "deliveries": (JobId(4),),
}
OPTIONAL = [field.name for field in fields(Job) if field.default is not NODEFAULT]


def job_with(name: str) -> Job:
    return replace(JOB, **{name: OTHERS.get(name, 192)})  # 192: its last byte is that of nil


@pytest.mark.parametrize("name", OPTIONAL)
def test_every_field_is_stored(name: str) -> None:
    job = job_with(name)
    assert decode_job(encode_job(job)) == job


@for_all(st.sets(st.sampled_from(OPTIONAL)))
def test_any_fields_together_are_stored(names: set[str]) -> None:
    job = replace(JOB, **{name: OTHERS.get(name, 192) for name in names})
    assert decode_job(encode_job(job)) == job


def test_what_most_jobs_lack_takes_no_room() -> None:
    fields_of_all = Job.__struct_fields__
    rare = fields_of_all.index("erased_at") + 1 - fields_of_all.index("holder")
    job = job_with("erased_at")
    assert len(encode_job(job)) - len(encode_job(JOB)) == rare + len(encode_moment(NOW)) - 1


def test_a_row_of_before_a_field_was_added_has_its_default() -> None:
    short = encode_job(JOB)
    assert short[:3] == bytes((0xDC, 0, Job.__struct_fields__.index("holder")))
    assert decode_job(short).erased_at is None


@pytest.mark.parametrize(
    "text",
    ["0f" * 32, "0F" * 32, "0f" * 31, "no digest", "", " " + "0f" * 32, "é" * 64],
)
def test_a_digest_is_packed_and_any_other_text_stays(text: str) -> None:
    assert unpacked(packed(text)) == text
    assert len(packed("0f" * 32)) == 32
