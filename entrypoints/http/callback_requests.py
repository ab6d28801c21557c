"""Bodies of requests about callbacks. Unknown fields are refused."""

from typing import Annotated

from msgspec import Meta, Struct

from domain.language import validation
from domain.language.callbacks import NAMED_MAX, OVERLAP_SECONDS, OVERLAP_SECONDS_MAX
from domain.language.commands import SetCallback
from domain.language.identifiers import CallbackName
from domain.language.ranges import Name

_Url = Annotated[
    str, Meta(extra_json_schema={"maxLength": validation.URL_CHARACTERS_MAX, "format": "uri"})
]
_Names = Annotated[list[Name], Meta(extra_json_schema={"maxItems": NAMED_MAX})]


class CallbackTarget(Struct, frozen=True, forbid_unknown_fields=True):
    """The address at which the end of a job is told."""

    url: Annotated[
        _Url,
        Meta(
            description="An http or https URL without a user or password, at most 2048 "
            "characters. It is part of the log for ever."
        ),
    ]


class CallbackChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """A whole endpoint: what is left out has its default."""

    url: Annotated[
        _Url,
        Meta(
            description="Where callbacks are sent: an http or https URL without a user or "
            "password, at most 2048 characters. It is part of the log for ever."
        ),
    ]
    kinds: Annotated[
        _Names | None,
        Meta(description="Only the ends of jobs of these kinds, at most 100. null: of any."),
    ] = None
    users: Annotated[
        _Names | None,
        Meta(description="Only the ends of these users' jobs, at most 100. null: of any."),
    ] = None

    def to_command(self, name: CallbackName) -> SetCallback:
        """Validate the fields. Raises `InvalidInput`."""
        return SetCallback(
            name=name,
            url=validation.callback_url(self.url),
            kinds=validation.callback_kinds(self.kinds or ()),
            users=validation.callback_users(self.users or ()),
        )


class SecretRotation(Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a new secret."""

    overlap_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=OVERLAP_SECONDS_MAX,
            description="How long the secret before it signs, too, in seconds, 0 to 31622400 (366 "
            "days). Left out: 86400 (a day).",
        ),
    ] = OVERLAP_SECONDS
