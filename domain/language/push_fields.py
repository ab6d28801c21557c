"""The endpoint of a kind as requests and answers have it."""

from typing import Annotated

from msgspec import Meta, Struct

from domain.language import validation
from domain.language.limits import PUSH_SECONDS, PushEndpoint
from domain.language.ranges import TimeoutSeconds


class PushFields(Struct, frozen=True, forbid_unknown_fields=True):
    """The endpoint that the jobs of a kind are posted to."""

    url: Annotated[
        str,
        Meta(
            description="An http or https URL. Put no secret into it: who reads limits reads it.",
            extra_json_schema={"maxLength": validation.URL_CHARACTERS_MAX},
        ),
    ]
    timeout_seconds: Annotated[
        TimeoutSeconds,
        Meta(
            description="How long a request may take, in seconds; default 300. A job's own "
            "time-out may be shorter."
        ),
    ] = PUSH_SECONDS
    secret_version: Annotated[
        int,
        Meta(
            ge=1,
            le=validation.VERSION_MAX,
            description="The version of the secret that requests are signed with; they are signed "
            "with the one before it, too. One more begins a rotation.",
        ),
    ] = 1

    def to_endpoint(self) -> PushEndpoint:
        """Return the endpoint. Raises `InvalidInput`."""
        return validation.push_endpoint(
            PushEndpoint(
                url=self.url,
                timeout_seconds=self.timeout_seconds,
                secret_version=self.secret_version,
            )
        )


def push_fields(endpoint: PushEndpoint | None) -> PushFields | None:
    if endpoint is None:
        return None
    return PushFields(endpoint.url, endpoint.timeout_seconds, endpoint.secret_version)
