"""Messages to and from the writer process arrive as they were sent."""

import socket
from collections.abc import Sequence
from typing import Final

import msgspec
import pytest

from adapters.processes.sent_errors import SentError
from adapters.settings import Settings
from adapters.supervision import Trouble
from adapters.writer.write_path import BatchWritten, WriterStats
from adapters.writer.writer_frames import (
    WriterHello,
    WriterRequest,
    WriterResponse,
    received_outcomes,
    request_decoder,
    response_decoder,
    sent_outcomes,
)
from domain.decisions.answers import (
    ArchiveChanged,
    Claimed,
    JobsUpdated,
    JobUpdated,
    KeyChanged,
    LeasesHeld,
    LimitsSet,
    OutboxTaken,
    PlanRemoved,
    RefusalsRecorded,
    ScheduleDecided,
)
from domain.decisions.batch import Outcome
from domain.jobs.ended_attempts import EndedAttempt
from domain.language.commands import (
    AcceptClock,
    AcceptLoss,
    ArchiveSegments,
    BackfillSchedule,
    BeginArchive,
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteArchive,
    CompleteJob,
    DeleteCallback,
    DeletePlan,
    DeleteSchedule,
    EnforceDeadlines,
    EraseArchivedBodies,
    EraseBodies,
    ExtendLeases,
    FailJob,
    FireSchedule,
    RecoverJobs,
    ReportWrongKeys,
    RetryJob,
    ReturnJob,
    RewriteSegment,
    RotateCallbackSecret,
    SaveProjections,
    SetCallback,
    SetSchedule,
    TakeOutbox,
    TriggerSchedule,
    UpdateLine,
)
from domain.language.errors import QueueFull, RateLimited
from domain.language.events import EventLost, LimitChanged, Scope, SegmentArchived
from domain.language.identifiers import (
    POSITION_MAX,
    CallbackName,
    JobId,
    KeyName,
    Kind,
    PlanName,
    ScheduleName,
    ServerId,
    WorkerId,
)
from domain.language.limits import Rate, RetryPolicy
from domain.language.schedules import Timing
from domain.log.segments import rewritten_event, segment_of
from fairlog_client.processes.frames import Decoder, Frames, encode_frame
from tests.support.given import NOW, at, given
from tests.support.keys import by, create_key, revoke_key, rotate_key
from tests.support.stories import (
    ALICE,
    admitted,
    body,
    refusals,
    submit,
)

WORKER = WorkerId("w-1")
JOB = JobId(POSITION_MAX)

_SEGMENT: Final = SegmentArchived(
    first=1,
    last=9,
    first_recorded_at=NOW,
    last_recorded_at=NOW,
    previous_hash="00",
    last_hash="01",
    roots=("02", "03"),
    bodies=4,
    log_id="04",
    begun=10,
    name="one.parquet",
    size=100,
    sha256="05",
)
_REWRITTEN: Final = rewritten_event(segment_of(_SEGMENT), "earlier.parquet", 11)
_SCHEDULE: Final = SetSchedule(
    name=ScheduleName("nightly"),
    user_id=ALICE,
    kind=Kind("echo"),
    payload="null",
    timing=Timing(cron="30 3 * * *", time_zone="Europe/Berlin"),
)

COMMANDS: Sequence[Command] = (
    submit(run_at=at(1), expires_at=at(2), timeout_seconds=0.5, priority=-3),
    refusals(7, scope=Scope.GLOBAL, last_at=at(0.000001)),
    ClaimJobs(worker=WORKER, max_jobs=3, kinds=(Kind("a"), Kind("ü"))),
    ExtendLeases(worker=WORKER, jobs=[(JOB, 1)]),
    CompleteJob(job_id=JOB, attempt=1, result=body("done")),
    CompleteJob(job_id=JOB, attempt=POSITION_MAX),
    FailJob(job_id=JOB, attempt=1, error=body("broken"), may_retry=False),
    ReturnJob(job_id=JOB, attempt=1),
    CancelJob(job_id=JOB),
    RetryJob(job_id=JOB),
    EraseBodies(job_id=JOB, attempt=1, positions=(2, 5)),
    EnforceDeadlines(jobs=[JOB]),
    UpdateLine(users=[ALICE]),
    RecoverJobs(server=ServerId("s"), jobs=[JOB]),
    ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=None, running=3),
    ChangeLimit(scope=Scope.GLOBAL, limit=5),
    ChangeLimit(
        scope=Scope.PLAN,
        plan=PlanName("gold"),
        windows=(Rate(10, 1), Rate(100, 60)),
        throttle=Rate(5, 1),
        weight=50,
        paused=True,
        max_attempts=3,
        priority_max=-1,
        retry=RetryPolicy(attempts=9, backoff="linear", never=("ValueError",)),
        timeout_seconds=1.5,
    ),
    DeletePlan(plan=PlanName("gold")),
    BeginArchive(last=9, recorded_at=NOW),
    ArchiveSegments(segments=(_SEGMENT,)),
    EraseArchivedBodies(job_id=JobId(3), user_id=ALICE, kind=Kind("echo"), positions=(3, 5)),
    RewriteSegment(rewritten=_REWRITTEN),
    CompleteArchive(last=9),
    _SCHEDULE,
    DeleteSchedule(name=_SCHEDULE.name),
    TriggerSchedule(name=_SCHEDULE.name),
    BackfillSchedule(name=_SCHEDULE.name, from_at=NOW, until_at=at(60)),
    FireSchedule(name=_SCHEDULE.name),
    SetCallback(
        name=CallbackName("orders"),
        url="https://example.org/",
        kinds=(Kind("echo"),),
        users=(ALICE,),
    ),
    DeleteCallback(name=CallbackName("orders")),
    RotateCallbackSecret(name=CallbackName("orders"), overlap_seconds=0.5),
    AcceptClock(),
    AcceptLoss(at=9, lost=(EventLost(), EventLost(lost_type="JobSubmitted", lost_at=NOW))),
    by("ci", submit()),
    create_key("ci", users=(ALICE,), expires_at=NOW),
    rotate_key("ci", "second"),
    revoke_key("ci"),
    ReportWrongKeys(count=2, addresses=1, first_at=NOW, last_at=at(1)),
    SaveProjections(),
    TakeOutbox(users=(ALICE,), rows_max=1, rejection="no"),
)


def submitted() -> Outcome:
    [outcome] = given().when(submit()).outcomes
    return outcome


def job_updated() -> JobUpdated:
    [outcome] = given().when(submit(), CancelJob(job_id=JobId(2))).outcomes[1:]
    assert isinstance(outcome, JobUpdated)
    return outcome


def schedule_decided() -> Outcome:
    """Return the answer to a trigger: the schedule with its run."""
    [_, outcome] = given().when(_SCHEDULE, TriggerSchedule(name=_SCHEDULE.name)).outcomes
    assert isinstance(outcome, ScheduleDecided)
    assert outcome.run
    return outcome


OUTCOMES: Sequence[Outcome] = (
    submitted(),
    job_updated(),
    Claimed([job_updated().job], is_repeated=True),
    LeasesHeld(NOW, [(JOB, 2)]),
    ArchiveChanged(9),
    JobsUpdated([]),
    LimitsSet(LimitChanged(scope=Scope.KIND, kind=Kind("a"), running=2)),
    PlanRemoved(PlanName("gold")),
    RefusalsRecorded(3),
    KeyChanged(KeyName("ci")),
    schedule_decided(),
    ScheduleDecided(None),
    OutboxTaken([1], [(2, "no")], [(ALICE, 1.5), (None, 2.5)], is_locked=True),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_arrives_as_it_was_sent(command: Command) -> None:
    [frame] = request_decoder().feed(encode_frame(WriterRequest([(7, [command, command])], 1.5)))
    assert frame == WriterRequest([(7, [command, command])], 1.5)


def test_every_kind_of_command_is_tried() -> None:
    assert {type(command) for command in COMMANDS} == set(Command.__args__)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_answer_arrives_as_it_was_given(outcome: Outcome) -> None:
    assert _through(outcome) == outcome


def test_a_refusal_arrives_with_the_decision_that_refused_it() -> None:
    limited = _through(RateLimited(admitted(), NOW))
    assert isinstance(limited, RateLimited)
    assert limited.decision == admitted()


def test_frames_arrive_whole_however_they_are_cut() -> None:
    sent: list[WriterHello | WriterRequest] = [
        WriterHello(Settings(user_limit=3), logs_json=True),
        WriterRequest([(1, [COMMANDS[0]])], 1.5),
        WriterRequest([], 2.5),
    ]
    wire = b"".join(encode_frame(frame) for frame in sent)
    for size in (1, 3, 50, len(wire)):
        decoder = request_decoder()
        found = [
            frame
            for start in range(0, len(wire), size)
            for frame in decoder.feed(wire[start : start + size])
        ]
        assert found == sent


def test_who_reads_frames_goes_on_where_there_was_no_memory_for_one() -> None:
    def decode(data: bytes) -> WriterHello | WriterRequest:
        if tries.pop():
            raise MemoryError
        return msgspec.msgpack.decode(data, type=WriterHello | WriterRequest)

    tries = [False, True, True, False, True]  # from the end
    sent = [WriterRequest([], float(number)) for number in range(2)]
    here, there = socket.socketpair()
    with here, there:
        incoming = Frames(there, Decoder(decode))
        for frame in sent:
            here.sendall(encode_frame(frame))
        here.shutdown(socket.SHUT_WR)
        found: list[WriterHello | WriterRequest] = []
        failures = 0
        while True:
            try:
                found.extend(iter(incoming.__next__, None))
                break
            except MemoryError:
                failures += 1
    assert (found, failures) == (sent, 3)


def test_the_figures_of_a_batch_go_with_its_answers() -> None:
    ended = [EndedAttempt(Kind("mail"), "error", 1.5, is_last=True)]
    written = BatchWritten(
        9, 2, 0.25, {("JobFailed", "error"): 2}, {("user", True): 1}, ended=ended
    )
    troubles = [Trouble("writes", "The disk is full.", 1.5)]
    sent = WriterResponse(
        [], [written], WriterStats(1, 2, 3, 4), SentError.of(QueueFull("full")), troubles
    )
    [frame] = response_decoder().feed(encode_frame(sent))
    assert frame == sent


def _through(outcome: Outcome) -> Outcome:
    sent = WriterResponse([(7, sent_outcomes([outcome]))], [], WriterStats(), None, [])
    [frame] = response_decoder().feed(encode_frame(sent))
    [(number, sent_back)] = frame.outcomes
    assert number == 7
    [found] = received_outcomes(sent_back)
    return found
