"""The subjects that are paused: no job of them starts until somebody resumes them."""

from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.fairness.line import UserInLine
from domain.jobs.job import State
from domain.language.events import Scope
from domain.language.identifiers import UserId
from domain.limits.limits import LimitSettings, Subject
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.formatting import counted
from entrypoints.runtime.text import visible

PAUSES_SHOWN: Final = 10
_USERS_CHECKED: Final = 20  # with the most waiting jobs: users with limits may be very many


class Pause(Struct, frozen=True):
    """A paused subject."""

    subject: Subject
    waiting: int | None  # its jobs; None: they are not counted, since it is a prefix

    @property
    def name(self) -> str:
        """The subject at the beginning of a sentence."""
        user, kind, resource, plan = map(visible, self.subject)
        match self.subject.scope:
            case Scope.USER:
                return f"The user “{user}”"
            case Scope.USER_KIND:
                return f"The kind “{kind}” of the user “{user}”"
            case Scope.KIND:
                return f"The kind “{kind}”"
            case Scope.RESOURCE:
                return f"The resource “{resource}”"
            case Scope.PLAN:
                return f"The plan “{plan}”"
            case Scope.GLOBAL:
                return "Everything"

    @property
    def sentence(self) -> str:
        if self.waiting is None:
            return f"{self.name} is paused."
        if self.subject.plan:
            most = f"of the {_USERS_CHECKED} users with the most waiting jobs"
            return f"{self.name} is paused: {counted(self.waiting, 'job', 'jobs')} {most}."
        return f"{self.name} is paused: {counted(self.waiting, 'job waits', 'jobs wait')}."

    @property
    def resume(self) -> str:
        """The fields of the form that resumes it, as JSON."""
        return form_values(self.subject, "resume")


def form_values(subject: Subject, action: str) -> str:
    """Return the fields of the form of limits that does `action` to a subject, as JSON."""
    user, kind, resource, plan = subject
    fields = {
        "scope": subject.scope,
        "name": user or kind or resource or plan,
        "kind": kind if user else "",
        "action": action,
    }
    return msgspec.json.encode(fields).decode()


def read_pauses(context: DashboardContext, connection: Connection) -> list[Pause]:
    """Return all paused subjects that are no users, and the paused ones, with their kinds, among
    the users with the most waiting jobs. The ones of all users come first.
    """
    fairlog = context.fairlog
    most = context.activity.most_waiting(connection, _USERS_CHECKED)
    users = context.front.users(connection, [user_id for user_id, _ in most])
    limits = fairlog.windows.limits_of(connection, users)
    paused = [
        subject
        for subject, one in limits.all_set()
        if (one.paused or one.running == 0)
        and (not subject.user_id or (subject.user_id in users and users[subject.user_id].waiting))
    ]
    loads = fairlog.line.resources(connection, [one.resource for one in paused if one.resource])

    def waiting(subject: Subject) -> int | None:
        match subject.scope:
            case Scope.USER:
                return users[subject.user_id].waiting
            case Scope.USER_KIND:
                return fairlog.line.user_kind(connection, subject.user_id, subject.kind).waiting
            case Scope.KIND:
                return fairlog.line.kind(connection, subject.kind).waiting
            case Scope.RESOURCE if subject.resource.endswith("*"):
                return None
            case Scope.RESOURCE:
                return loads[subject.resource].waiting if subject.resource in loads else 0
            case Scope.PLAN:
                return _waiting_on(subject, limits, users)
            case Scope.GLOBAL:
                return fairlog.jobs.counts(connection)[State.QUEUED]

    ordered = sorted(paused, key=lambda one: (one.scope is not Scope.GLOBAL, one))
    return [Pause(subject, waiting(subject)) for subject in ordered]


def _waiting_on(subject: Subject, limits: LimitSettings, users: dict[UserId, UserInLine]) -> int:
    """Return the waiting jobs of those users whom the pause of their plan holds back."""
    on_plan = ((limits.of_user(user_id), user) for user_id, user in users.items())
    return sum(
        user.waiting
        for one, user in on_plan
        if one.plan == subject.plan and (one.paused or one.running == 0)
    )
