"""Any sequence of commands, as Hypothesis strategies: what several clients of several users wish.

A wish is made without knowing what came before it. It becomes a command when its turn comes, about
a job that there is then.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from domain.language.bodies import body_of
from domain.language.callbacks import CALLBACK_KIND, OF_SUBMISSIONS
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    DeleteCallback,
    DeletePlan,
    EnforceDeadlines,
    EraseBodies,
    ExtendLeases,
    FailJob,
    Progress,
    RecoverJobs,
    ReportRefusals,
    RetryJob,
    ReturnJob,
    RotateCallbackSecret,
    SetCallback,
    SubmitJob,
    UpdateLine,
)
from domain.language.events import AfterFailure, Role, Scope
from domain.language.identifiers import (
    CallbackName,
    JobId,
    Kind,
    PlanName,
    ResourceName,
    ServerId,
    UserId,
    WorkerId,
)
from domain.language.limits import Rate, RetryPolicy
from domain.language.moments import later
from domain.limits.rate_limits import window_start
from tests.support.keys import by, create_key, revoke_key, rotate_key

USERS: Final = [UserId(name) for name in ("alice", "Alice", "alice ", "zoë👩")]
KINDS: Final = [Kind(name) for name in ("echo", "sleep", "échö")]
WORKERS: Final = [WorkerId("worker-1"), WorkerId("worker-2")]
ANY_KIND: Final = [WorkerId("any-1"), WorkerId("any-2")]  # workers who claim whatever there is
PLANS: Final = [PlanName("default"), PlanName("gold")]
URLS: Final = ["https://a.example/hook", "http://b.example:8080/?to=x"]
RESOURCES: Final = [ResourceName("shop:a"), ResourceName("shop:*")]
AMPLE: Final = Rate(1_000_000, 1)
WINDOW_SECONDS: Final = 60  # the default
SERVER: Final = ServerId("server-1")
KEY: Final = "sometimes"  # the name of an API key


class Known:
    """The jobs that clients know from answers, and their latest attempts."""

    def __init__(self) -> None:
        self.attempts: dict[JobId, int] = {}
        self.now: datetime

    def job(self, index: int) -> JobId:
        """Some job, more often a recent one; 1, which is none, where there is none yet."""
        ids = list(self.attempts)
        return ids[-1 - index % len(ids)] if ids else JobId(1)

    def attempt(self, job_id: JobId) -> int:
        return self.attempts.get(job_id, 0)


SLOWER = RetryPolicy(backoff="linear", base_seconds=4.0, jitter=0.25)
ONCE = RetryPolicy(never=("Error", "LeaseLost"))

Wish = Callable[[Known], Command]

# Jobs that a new one comes after, mostly none.
_SOME: Final = st.lists(st.integers(0, 12), max_size=3)
PARENTS: Final = st.one_of(_SOME.map(lambda _: list[int]()), _SOME)


@st.composite
def submissions(
    draw: st.DrawFn, resources: st.SearchStrategy[tuple[ResourceName, ...]] | None = None
) -> Wish:
    run_in = draw(st.sampled_from([None, None, None, -5.0, 0.0, 5.0, 40.0]))
    expires_in = draw(st.sampled_from([None, None, None, 0.5, 35.0, 100.0]))
    payload = body_of(draw(st.integers(0, 30)), "payload")
    fields: dict[str, Any] = {
        "user_id": draw(st.sampled_from(USERS)),
        "kind": draw(st.sampled_from(KINDS)),
        "payload": payload,
        "idempotency_key": draw(st.sampled_from([None, None, None, "key-1", "key-2"])),
        "timeout_seconds": draw(st.sampled_from([None, None, 3.0, 45.0])),
        "max_attempts": draw(st.sampled_from([None, 1, 3])),
        "retry": draw(st.sampled_from([None, None, None, SLOWER, ONCE])),
        "priority": draw(st.sampled_from([0, 0, 0, 2, -1])),
        "resources": () if resources is None else draw(resources),
        "callback": draw(st.sampled_from([None, None, None, URLS[0]])),
    }
    parents = draw(PARENTS)
    if parents:
        fields["after_failure"] = draw(st.sampled_from(AfterFailure))

    def wish(known: Known) -> Command:
        return SubmitJob(
            run_at=None if run_in is None else later(known.now, run_in),
            expires_at=None if expires_in is None else later(known.now, expires_in),
            after=tuple(sorted({known.job(index) for index in parents})),
            **fields,
        )

    return wish


@st.composite
def claims(draw: st.DrawFn) -> Wish:
    kinds = draw(st.none() | st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    command = ClaimJobs(
        worker=draw(st.sampled_from(ANY_KIND if kinds is None else WORKERS)),
        max_jobs=draw(st.integers(1, 6)),
        kinds=None if kinds is None else tuple(kinds),
        server=draw(st.sampled_from([None, SERVER])),
        claim_id=draw(st.sampled_from([None, None, *(f"claim-{number}" for number in range(5))])),
        may_wait=draw(st.booleans()),
        begins=draw(st.sampled_from([None, None, 0, 1, 6])),
    )
    if draw(st.sampled_from([False, False, False, True])):
        command = replace(command, kinds=(CALLBACK_KIND,), delivers=True)
    return lambda _: command


@st.composite
def ends(draw: st.DrawFn) -> Wish:
    index = draw(st.integers(0, 12))
    behind = draw(st.sampled_from([0, 0, 0, 0, 1]))  # attempts: a late one
    result = draw(st.none() | st.integers(0, 1).map(lambda value: body_of(value, "result")))
    what = draw(st.sampled_from(["complete", "complete", "fail", "fail for good", "give back"]))
    begun = draw(st.sampled_from([None, None, True, False]))

    def wish(known: Known) -> Command:
        job_id = known.job(index)
        attempt = known.attempt(job_id) - behind
        match what:
            case "complete":
                return CompleteJob(job_id=job_id, attempt=attempt, result=result)
            case "give back":
                return ReturnJob(job_id=job_id, attempt=attempt, begun=begun)
            case _:
                error = body_of({"message": "it broke"}, "error")
                may_retry = what == "fail"
                return FailJob(job_id=job_id, attempt=attempt, error=error, may_retry=may_retry)

    return wish


@st.composite
def turns(draw: st.DrawFn) -> Wish:
    index = draw(st.integers(0, 12))
    is_cancelled = draw(st.booleans())
    return lambda known: (
        CancelJob(job_id=known.job(index)) if is_cancelled else RetryJob(job_id=known.job(index))
    )


@st.composite
def heartbeats(draw: st.DrawFn) -> Wish:
    worker = draw(st.sampled_from([*WORKERS, *ANY_KIND]))
    is_begun, is_late = draw(st.booleans()), draw(st.booleans())
    is_progress = draw(st.booleans())

    def wish(known: Known) -> Command:
        jobs = list(known.attempts.items())
        if is_late:  # the attempt before the latest may hold its place
            jobs += [(job_id, attempt - 1) for job_id, attempt in jobs if attempt > 1]
        begun = tuple(jobs) if is_begun else ()
        message = body_of("half", "message")
        progress = [Progress(*key, 0.5, message) for key in jobs if is_progress]
        return ExtendLeases(worker=worker, jobs=jobs, begun=begun, progress=tuple(progress))

    return wish


@st.composite
def erasures(draw: st.DrawFn) -> Wish:
    index = draw(st.integers(0, 12))

    def wish(known: Known) -> Command:
        job_id = known.job(index)
        return EraseBodies(job_id=job_id, attempt=known.attempt(job_id), positions=(job_id,))

    return wish


@st.composite
def reports(draw: st.DrawFn) -> Wish:
    """Report refusals of a process's refusal cache, in the current window or the one before."""
    user_id = draw(st.sampled_from(USERS))
    scope = draw(st.sampled_from([Scope.USER, Scope.GLOBAL]))
    count = draw(st.integers(1, 4))
    ago = draw(st.sampled_from([0.0, 0.0, WINDOW_SECONDS]))

    def wish(known: Known) -> Command:
        refused_at = later(known.now, -ago)
        return ReportRefusals(
            user_id=user_id,
            scope=scope,
            used=6,
            limit=6,
            count=count,
            window_start=window_start(refused_at, WINDOW_SECONDS),
            window_seconds=WINDOW_SECONDS,
            first_at=refused_at,
            last_at=refused_at,
        )

    return wish


def wakes() -> st.SearchStrategy[Wish]:
    return st.just(lambda known: EnforceDeadlines(jobs=list(known.attempts)))


def recoveries() -> st.SearchStrategy[Wish]:
    return st.just(lambda known: RecoverJobs(server=SERVER, jobs=list(known.attempts)))


WINDOWS = st.sampled_from(
    [UNSET, None, (), (Rate(2, 16),), (Rate(1, 1), Rate(3, 60), Rate(5, 100))]
)
NUMBERS = st.sampled_from([UNSET, None, 0, 1, 2, 5])


@st.composite
def limit_changes(draw: st.DrawFn) -> Wish:
    scope = draw(st.sampled_from(Scope))
    of_user = {"user_id": draw(st.sampled_from(USERS))}
    of_kind = {"kind": draw(st.sampled_from(KINDS))}
    fields: dict[str, Any]
    match scope:
        case Scope.USER:
            plan = draw(st.sampled_from([UNSET, None, *PLANS]))
            fields = of_user | {"limit": draw(NUMBERS), "running": draw(NUMBERS), "plan": plan}
            fields |= {"windows": draw(WINDOWS)}
        case Scope.GLOBAL:
            fields = {"limit": draw(NUMBERS), "windows": draw(WINDOWS)}
        case Scope.KIND:
            retry = draw(st.sampled_from([UNSET, None, SLOWER, ONCE]))
            fields = of_kind | {"running": draw(NUMBERS), "retry": retry}
        case Scope.USER_KIND:  # what no job of these tests comes up against
            fields = of_user | of_kind | {"throttle": draw(st.sampled_from([None, AMPLE]))}
        case Scope.PLAN:
            fields = {"plan": draw(st.sampled_from(PLANS)), "limit": draw(NUMBERS)}
            fields |= {"windows": draw(WINDOWS)}
        case Scope.RESOURCE:
            fields = {"resource": draw(st.sampled_from(RESOURCES)), "running": draw(NUMBERS)}
    command = ChangeLimit(scope=scope, **fields)
    return lambda _: command


USED = st.lists(st.sampled_from(["api", "shop:a", "shop:b"]), max_size=3, unique=True).map(
    lambda names: tuple(map(ResourceName, sorted(names)))
)
THROTTLES = st.sampled_from([UNSET, None, Rate(0, 16), Rate(1, 16), Rate(2, 60), Rate(3, 1)])
WEIGHTS = st.sampled_from([UNSET, None, 1, 50, 333, 100_000])
PAUSES = st.sampled_from([UNSET, None, None, False, True])


@st.composite
def start_limit_changes(draw: st.DrawFn) -> Wish:
    """Change what bounds or orders starts, of any subject."""
    scope = draw(st.sampled_from(Scope))
    fields: dict[str, Any] = {"paused": draw(PAUSES)}
    if scope in {Scope.USER, Scope.USER_KIND}:
        fields["user_id"] = draw(st.sampled_from(USERS))
    if scope in {Scope.KIND, Scope.USER_KIND}:
        fields["kind"] = draw(st.sampled_from(KINDS))
    if scope is Scope.RESOURCE:
        names = ["api", "shop:a", "shop:*", "*"]
        fields["resource"] = ResourceName(draw(st.sampled_from(names)))
    if scope is Scope.PLAN:
        fields["plan"] = draw(st.sampled_from(PLANS))
    if scope is Scope.USER:
        fields["plan"] = draw(st.sampled_from([UNSET, UNSET, None, *PLANS]))
    if scope in {Scope.USER, Scope.PLAN}:
        fields["weight"] = draw(WEIGHTS)
    if scope is not Scope.GLOBAL:
        fields |= {"throttle": draw(THROTTLES), "running": draw(NUMBERS)}
    command = ChangeLimit(scope=scope, **fields)
    return lambda _: command


@st.composite
def callback_changes(draw: st.DrawFn) -> Wish:
    """Set, delete or rotate an endpoint, or rotate the secret for the URLs of submissions."""
    name = CallbackName(draw(st.sampled_from(["orders", "all"])))
    some = draw(st.lists(st.sampled_from(USERS), max_size=2, unique=True))
    kinds = draw(st.lists(st.sampled_from(KINDS), max_size=2, unique=True))
    commands: list[Command] = [
        SetCallback(
            name=name,
            url=draw(st.sampled_from(URLS)),
            kinds=tuple(sorted(kinds)),
            users=tuple(sorted(some)),
        ),
        DeleteCallback(name=name),
        RotateCallbackSecret(name=draw(st.sampled_from([name, OF_SUBMISSIONS]))),
    ]
    command = draw(st.sampled_from([commands[0], *commands]))
    return lambda _: command


def line_updates() -> st.SearchStrategy[Wish]:
    """Look at users again, as a timer does."""
    some = st.lists(st.sampled_from(USERS), unique=True)
    return some.map(lambda users: lambda _: UpdateLine(users=users))


def plan_deletions() -> st.SearchStrategy[Wish]:
    commands = st.sampled_from([DeletePlan(plan=plan) for plan in PLANS])
    return commands.map(lambda command: lambda _: command)


@st.composite
def key_changes(draw: st.DrawFn) -> Wish:
    """Create, rotate or revoke the key that some other commands are sent by."""
    commands: list[Command] = [
        create_key(KEY, Role.ADMIN),
        rotate_key(KEY, "second", 16.0),
        revoke_key(KEY),
        create_key("once", Role.WORKER),
    ]
    command = draw(st.sampled_from(commands))
    return lambda _: command


@st.composite
def with_key(draw: st.DrawFn, wishes: st.SearchStrategy[Wish]) -> Wish:
    """Let a key send the command, whether it is valid or not."""
    wish = draw(wishes)
    seed = draw(st.sampled_from([None, None, "second"]))
    return lambda known: by(KEY, wish(known), seed)


def any_wish(*, with_start_limits: bool = False) -> st.SearchStrategy[Wish]:
    submitted = submissions(USED if with_start_limits else None)
    often = [submitted, submitted, submitted, claims(), claims(), ends(), ends()]
    limits = [*[start_limit_changes()] * 3, line_updates()] if with_start_limits else []
    return st.one_of(
        *often,
        *limits,
        turns(),
        wakes(),
        wakes(),
        heartbeats(),
        recoveries(),
        limit_changes(),
        limit_changes(),
        plan_deletions(),
        erasures(),
        reports(),
        callback_changes(),
        key_changes(),
        with_key(st.one_of(submissions(), claims(), ends(), turns(), heartbeats())),
    )


# Seconds by which the clock moves before a batch, and which of two services it goes to.
Batches = list[tuple[float, int, list[Wish]]]


def batches(
    batches_max: int = 12, wishes_max: int = 9, *, with_start_limits: bool = False
) -> st.SearchStrategy[Batches]:
    """`with_start_limits`: with throttles, weights, pauses and caps of all subjects, and jobs that
    use resources.
    """
    moves = st.sampled_from(
        [0.0, 0.0, 0.000001, 1.0, 16.0, 31.0, 60.0, 101.0, 599.0, -7.0, -1000.0]
    )
    wishes = any_wish(with_start_limits=with_start_limits)
    batch = st.lists(wishes, min_size=1, max_size=wishes_max)
    return st.lists(st.tuples(moves, st.integers(0, 1), batch), min_size=1, max_size=batches_max)
