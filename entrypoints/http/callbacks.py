"""Routes for the endpoints of callbacks."""

from litestar import Controller, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_204_NO_CONTENT

from domain.language import validation
from domain.language.commands import DeleteCallback, RotateCallbackSecret
from entrypoints.http.access import sent_by
from entrypoints.http.callback_requests import CallbackChange, SecretRotation
from entrypoints.http.parameters import CallbackInPath
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service import callbacks
from entrypoints.service.callbacks import CallbackList, CallbackView
from entrypoints.service.fairlog import Fairlog


class CallbackController(Controller):
    """Routes for the endpoints that are told the ends of jobs."""

    path = "/v1/callbacks"
    tags = ("callbacks",)

    @get()
    async def list_callbacks(self, fairlog: NamedDependency[Fairlog]) -> CallbackList:
        """List all endpoints by name; there are at most 50."""
        return await callbacks.callback_list(fairlog)

    @get("/{name:str}")
    async def get_callback(
        self, name: CallbackInPath, fairlog: NamedDependency[Fairlog]
    ) -> CallbackView:
        """Return an endpoint."""
        return await callbacks.callback(fairlog, validation.callback_name(name))

    @put("/{name:str}")
    async def set_callback(
        self,
        name: CallbackInPath,
        request: StrictRequest,
        data: JSONBody[CallbackChange],
        fairlog: NamedDependency[Fairlog],
    ) -> CallbackView:
        """Make an endpoint, or replace it. It is told the ends of jobs that end from now on."""
        command = data.to_command(validation.endpoint_name(name))
        changed = await callbacks.change_callback(fairlog, sent_by(request, command))
        return callbacks.callback_view(changed)

    @delete("/{name:str}", status_code=HTTP_204_NO_CONTENT)
    async def remove(
        self, name: CallbackInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> None:
        """Delete an endpoint. Deliveries to it that wait fail."""
        command = DeleteCallback(name=validation.endpoint_name(name))
        await callbacks.change_callback(fairlog, sent_by(request, command))

    @post("/{name:str}/rotate", status_code=HTTP_200_OK)
    async def rotate(
        self,
        name: CallbackInPath,
        data: JSONBody[SecretRotation],
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
    ) -> CallbackView:
        """Give an endpoint a new secret, or with the name `default` the URLs that come with jobs.

        The secret before it signs, too, until the overlap has ended. `fairlog callbacks secret`
        prints secrets, which no answer holds.
        """
        command = RotateCallbackSecret(
            name=validation.callback_name(name), overlap_seconds=data.overlap_seconds
        )
        changed = await callbacks.change_callback(fairlog, sent_by(request, command))
        return callbacks.callback_view(changed)
