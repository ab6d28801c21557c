"""Routes that create, list, rotate and revoke API keys."""

from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from msgspec import Meta, Struct

from domain.access.new_keys import CHANGES_MAX, KINDS_MAX, USERS_MAX
from domain.language import validation
from domain.language.commands import Command, RevokeKey
from domain.language.errors import InvalidInput, UnknownKey
from domain.language.events import KeyCreated, Role
from domain.language.identifiers import KeyName, Kind, UserId
from domain.language.ranges import MaxAttempts, Name, Priority, Time, TimeoutSeconds
from domain.language.validation import KEY_NAME_CHARACTERS_MAX
from entrypoints.http.access import sent_by
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.key_views import KeyView, key_view, key_views
from entrypoints.use_cases.keys import (
    NO_SECRET,
    OVERLAP_SECONDS,
    OVERLAP_SECONDS_MAX,
    creation,
    rotation,
)

KeyNameInPath = Annotated[
    str,
    PathParameter(
        description="The key's name.",
        schema_extra={"minLength": 1, "maxLength": KEY_NAME_CHARACTERS_MAX},
    ),
]


class NewKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key to be created."""

    name: Annotated[
        str,
        Meta(
            description="A name that no key has had: letters, digits, dots, underscores, hyphens.",
            extra_json_schema={
                "minLength": 1,
                "maxLength": KEY_NAME_CHARACTERS_MAX,
                "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
            },
        ),
    ]
    role: Annotated[Role, Meta(description="What the key may do.")]
    users: Annotated[
        tuple[Name, ...],
        Meta(
            description="The users whose jobs it is for. Left out: none.",
            extra_json_schema={"maxItems": USERS_MAX},
        ),
    ] = ()
    user_prefix: Annotated[
        Name | None,
        Meta(description="It is for all users whose ids start so. Left out or null: no others."),
    ] = None
    any_user: Annotated[
        bool,
        Meta(description="true: it is for all users. Left out: only a submitter's key is not."),
    ] = False
    kinds: Annotated[
        tuple[Name, ...],
        Meta(
            description="The kinds of job that it is for. Left out: all.",
            extra_json_schema={"maxItems": KINDS_MAX},
        ),
    ] = ()
    expires_at: Annotated[
        Time | None, Meta(description="When it ends. Left out or null: never.")
    ] = None
    priority_max: Annotated[
        Priority | None,
        Meta(description="The highest priority that it may ask for. Left out or null: any."),
    ] = None
    attempts_max: Annotated[
        MaxAttempts | None,
        Meta(description="The most attempts that it may ask for. Left out or null: any."),
    ] = None
    timeout_seconds_max: Annotated[
        TimeoutSeconds | None,
        Meta(
            description="The longest time-out that it may ask for, in seconds. Left out or null: "
            "any."
        ),
    ] = None
    changes_max: Annotated[
        Annotated[int, Meta(ge=0, le=CHANGES_MAX)] | None,
        Meta(description="Cancellations and retries per window. Left out or null: any number."),
    ] = None

    def to_event(self) -> KeyCreated:
        """Return the key without its secret."""
        return KeyCreated(
            name=validation.key_name(self.name),
            role=self.role,
            secret_id=NO_SECRET,
            secret_sha256="",
            users=tuple(map(UserId, self.users)),
            user_prefix=self.user_prefix,
            any_user=self.any_user,
            kinds=tuple(map(Kind, self.kinds)),
            expires_at=None
            if self.expires_at is None
            else validation.moment(self.expires_at, "expires_at"),
            priority_max=self.priority_max,
            attempts_max=self.attempts_max,
            timeout_seconds_max=self.timeout_seconds_max,
            changes_max=self.changes_max,
        )


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a new secret."""

    overlap_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=OVERLAP_SECONDS_MAX,
            description="How long the earlier secrets still hold, in seconds, 0 to 2592000 (30 "
            "days). Left out: 3600 (an hour).",
        ),
    ] = OVERLAP_SECONDS


class KeyWithSecret(Struct, frozen=True):
    """A key and its new secret, which is shown only now."""

    secret: Annotated[str, Meta(description="The secret, to be sent as `Authorization: Bearer`.")]
    key: Annotated[KeyView, Meta(description="The key.")]


class KeyList(Struct, frozen=True):
    """All API keys."""

    keys: Annotated[
        Sequence[KeyView],
        Meta(description="The keys in the order of their creation, also those that have ended."),
    ]


class KeyController(Controller):
    """Routes for API keys."""

    path = "/v1/keys"
    tags = ("keys",)

    @get()
    async def list_keys(self, fairlog: NamedDependency[Fairlog]) -> KeyList:
        """List all keys, without their secrets."""
        ring = fairlog.key_ring
        await ring.refresh()
        return KeyList(key_views(ring.keys, ring.now))

    @post(status_code=HTTP_201_CREATED)
    async def create(
        self, data: JSONBody[NewKey], request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> KeyWithSecret:
        """Create a key. Its secret is in this answer alone."""
        secret, command = creation(data.to_event())
        return await _changed(request, fairlog, secret, command.key.name, command)

    @post("/{name:str}/rotate", status_code=HTTP_200_OK)
    async def rotate(
        self,
        name: KeyNameInPath,
        data: JSONBody[Rotation],
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
    ) -> KeyWithSecret:
        """Give a key a new secret. The earlier ones hold until the overlap has ended."""
        secret, command = rotation(_known(name), data.overlap_seconds)
        return await _changed(request, fairlog, secret, command.name, command)

    @delete("/{name:str}", status_code=HTTP_200_OK)
    async def revoke(
        self, name: KeyNameInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> KeyView:
        """Revoke a key for ever.

        All servers refuse it at once for writes, and within a second for reads.
        """
        known = _known(name)
        await _execute(request, fairlog, RevokeKey(name=known))
        return _view(fairlog, known)


async def _changed(
    request: StrictRequest, fairlog: Fairlog, secret: str, name: KeyName, command: Command
) -> KeyWithSecret:
    await _execute(request, fairlog, command)
    return KeyWithSecret(secret, _view(fairlog, name))


async def _execute(request: StrictRequest, fairlog: Fairlog, command: Command) -> None:
    """Change a key, and have this server know it before the caller has the answer."""
    await fairlog.writer.execute(sent_by(request, command))
    await fairlog.key_ring.refresh()


def _view(fairlog: Fairlog, name: KeyName) -> KeyView:
    ring = fairlog.key_ring
    return key_view(ring.keys.by_name[name], ring.now)


def _known(name: str) -> KeyName:
    """Return the name of a key. No key has a malformed one."""
    try:
        return validation.key_name(name)
    except InvalidInput:
        raise UnknownKey(KeyName(name)) from None
