"""Callbacks: the endpoints that are told the ends of jobs."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from sqlalchemy.engine import Connection

from domain.language.callbacks import CALLBACK_KIND
from entrypoints.dashboard.context import DashboardContext
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service.callbacks import views_of


@get("/callbacks")
async def callbacks(
    request: StrictRequest, context: NamedDependency[DashboardContext]
) -> Response[str]:
    """List the endpoints by name."""
    return await context.show(
        request, "callbacks", "Callbacks", lambda connection, _: _read(context, connection)
    )


def _read(context: DashboardContext, connection: Connection) -> dict[str, Any]:
    return {
        "endpoints": views_of(context.fairlog.callbacks.all(connection)),
        "kind": CALLBACK_KIND,
    }
