"""Changes of callback endpoints, reads of them, and their views."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct
from sqlalchemy.engine import Connection

from domain.callbacks.callbacks import Callback
from domain.decisions.answers import CallbackDecided
from domain.language.callbacks import OF_SUBMISSIONS
from domain.language.commands import CallbackCommand
from domain.language.errors import UnknownCallback
from domain.language.identifiers import CallbackName
from domain.language.ranges import Name, Time
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.queries import Queries


class CallbackView(Struct, frozen=True):
    """An endpoint that is told the ends of jobs. Its secret is shown by `fairlog callbacks`."""

    name: Annotated[CallbackName, Meta(description="The name of the endpoint.")]
    url: Annotated[str, Meta(description="Where callbacks are sent. Empty: to the URLs of jobs.")]
    kinds: Annotated[
        tuple[Name, ...], Meta(description="The kinds whose ends it is told. Empty: any.")
    ]
    users: Annotated[
        tuple[Name, ...], Meta(description="The users whose jobs' ends it is told. Empty: any.")
    ]
    created_at: Annotated[Time | None, Meta(description="When it was made.")]
    changed_at: Annotated[Time | None, Meta(description="When it was last made or changed.")]
    secret_version: Annotated[
        int,
        Meta(ge=1, description="The version of its secret; a rotation makes the next one."),
    ]
    earlier_secret_until: Annotated[
        Time | None,
        Meta(description="The secret before it signs until then, too. null: none was before it."),
    ]


class CallbackList(Struct, frozen=True):
    """All endpoints, by name."""

    callbacks: Annotated[list[CallbackView], Meta(description="Endpoints, by name.")]


async def change_callback(fairlog: Fairlog, command: CallbackCommand) -> Callback:
    """Decide a command, and return the endpoint after it. Raises the refusals of the command."""
    decided = await fairlog.writer.execute(command)
    assert isinstance(decided, CallbackDecided), decided
    return decided.callback


async def all_callbacks(queries: Queries) -> dict[CallbackName, Callback]:
    """Return all endpoints, with the versions of those that were deleted."""
    return await queries.read(queries.with_saved_rows(queries.callbacks.all))


async def callbacks_now(queries: Queries) -> tuple[dict[CallbackName, Callback], datetime]:
    """Return what `all_callbacks` does, and the log's time, by which secrets overlap."""

    def query(connection: Connection) -> tuple[dict[CallbackName, Callback], datetime]:
        return queries.callbacks.all(connection), queries.log.now(connection)

    return await queries.read(queries.with_saved_rows(query))


async def callback(queries: Queries, name: CallbackName) -> CallbackView:
    """Return an endpoint. Raises `UnknownCallback`."""
    found = (await all_callbacks(queries)).get(name)
    if found is None or found.url is None:
        raise UnknownCallback(name)
    return callback_view(found)


async def callback_list(queries: Queries) -> CallbackList:
    return CallbackList(views_of(await all_callbacks(queries)))


def views_of(found: Mapping[CallbackName, Callback]) -> list[CallbackView]:
    """Return the views of those endpoints that are set, by name."""
    return [callback_view(one) for _, one in sorted(found.items()) if one.url is not None]


def callback_view(found: Callback) -> CallbackView:
    return CallbackView(
        name=found.name,
        url=found.url or "",
        kinds=found.kinds,
        users=found.users,
        created_at=found.created_at,
        changed_at=found.changed_at,
        secret_version=found.version,
        earlier_secret_until=found.earlier_until,
    )


def secret_versions(
    found: dict[CallbackName, Callback], name: CallbackName | None, now: datetime
) -> tuple[CallbackName, tuple[int, ...]]:
    """Return by whose secret a delivery is signed, and the versions that sign now, newest first.

    Raises `UnknownCallback` if the endpoint was deleted.
    """
    if name is None:
        return OF_SUBMISSIONS, found.get(OF_SUBMISSIONS, Callback(OF_SUBMISSIONS)).versions(now)
    endpoint = found.get(name)
    if endpoint is None or endpoint.url is None:
        raise UnknownCallback(name)
    return name, endpoint.versions(now)
