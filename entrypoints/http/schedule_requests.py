"""Bodies of requests about schedules. Unknown fields are refused.

Every method `to_command` raises `InvalidInput` for a value that the types do not check.
"""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Raw, Struct, field

from domain.language import validation
from domain.language.bodies import body_of_json
from domain.language.commands import BackfillSchedule, SetSchedule
from domain.language.errors import InvalidInput
from domain.language.identifiers import ScheduleName
from domain.language.ranges import Name, Time
from domain.language.schedules import (
    CATCH_UP_SECONDS,
    CATCH_UP_SECONDS_MIN,
    CRON_CHARACTERS_MAX,
    JITTER_SECONDS_MAX,
    SCHEDULE_PAYLOAD_BYTES_MAX,
    SCHEDULE_SECONDS_MAX,
    Overlap,
    Timing,
)
from domain.schedules.timing import checked_timing

_NULL: Final = Raw(b"null")


class ScheduleChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """A whole schedule: what is left out has its default."""

    user_id: Annotated[
        Name, Meta(description="The user whose jobs it submits, under the user's limits.")
    ]
    kind: Annotated[Name, Meta(description="The kind of its jobs.")]
    payload: Annotated[
        Raw,
        Meta(
            description="The payload of each job: any JSON value, at most 16 KiB as compact JSON. "
            "It is part of the log for ever: name what is personal by an id.",
            extra_json_schema={"default": None},
        ),
    ] = field(default_factory=lambda: _NULL)
    cron: Annotated[
        Annotated[str, Meta(extra_json_schema={"maxLength": CRON_CHARACTERS_MAX})] | None,
        Meta(
            description="A cron expression of five fields, by Debian's rules: 30 3 * * * is 3:30 "
            "every day. null: every_seconds says when."
        ),
    ] = None
    every_seconds: Annotated[
        Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": SCHEDULE_SECONDS_MAX})]
        | None,
        Meta(
            description="Due whenever Unix time is a multiple of so many seconds, 1 to 31622400. "
            "null: cron says when."
        ),
    ] = None
    time_zone: Annotated[
        str,
        Meta(description="The IANA time zone of the cron expression, like Europe/Berlin."),
    ] = "UTC"
    overlap: Annotated[
        Overlap,
        Meta(
            description="What happens at a due time while the schedule's latest job has not ended. "
            "skip: nothing. buffer_one: one job follows when that one has ended. allow_all: a job "
            "is submitted. cancel_other: a job is submitted, and that one is cancelled."
        ),
    ] = Overlap.SKIP
    catch_up_seconds: Annotated[
        Annotated[
            int,
            Meta(
                extra_json_schema={
                    "minimum": CATCH_UP_SECONDS_MIN,
                    "maximum": SCHEDULE_SECONDS_MAX,
                }
            ),
        ],
        Meta(
            description="A due time that is decided later than so much, because no server ran, is "
            "missed; later ones are caught up, oldest first. 10 to 31622400 seconds."
        ),
    ] = CATCH_UP_SECONDS
    jitter_seconds: Annotated[
        Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": JITTER_SECONDS_MAX})],
        Meta(
            description="Each due time is put off by up to so many seconds, by a fixed part for "
            "each schedule and time; 0 to 86400."
        ),
    ] = 0
    paused: Annotated[
        bool,
        Meta(description="true: no time is due, and none of this time is caught up later."),
    ] = False

    def to_command(self, name: ScheduleName, now: datetime) -> SetSchedule:
        """Validate the fields. `now` is about the present."""
        payload = body_of_json(bytes(self.payload), "payload")
        if payload.size > SCHEDULE_PAYLOAD_BYTES_MAX:
            raise InvalidInput(
                f"The payload of a schedule has at most {SCHEDULE_PAYLOAD_BYTES_MAX} bytes as "
                f"compact JSON; this one has {payload.size}. Store it elsewhere and send a "
                "reference.",
                is_too_large=True,
            )
        if not CATCH_UP_SECONDS_MIN <= self.catch_up_seconds <= SCHEDULE_SECONDS_MAX:
            raise InvalidInput(
                f"catch_up_seconds is a whole number from {CATCH_UP_SECONDS_MIN} to "
                f"{SCHEDULE_SECONDS_MAX} (366 days)."
            )
        timing = Timing(
            cron=None if self.cron is None else " ".join(self.cron.split()),
            every_seconds=self.every_seconds,
            time_zone=self.time_zone,
            jitter_seconds=self.jitter_seconds,
        )
        user_id, kind = validation.user_id(self.user_id), validation.kind(self.kind)
        validation.not_reserved(user_id, kind)
        return SetSchedule(
            name=name,
            user_id=user_id,
            kind=kind,
            payload=payload.data.decode(),
            timing=checked_timing(timing, now),
            overlap=self.overlap,
            catch_up_seconds=self.catch_up_seconds,
            paused=self.paused,
        )


class BackfillSpan(
    Struct, forbid_unknown_fields=True, rename={"from_at": "from", "until_at": "until"}
):
    """A span of the past whose due times are run, at most 1,000 of them."""

    from_at: Annotated[Time, Meta(description="The start of the span, inclusive.")]
    until_at: Annotated[
        Time,
        Meta(
            description="The end of the span, exclusive; at most the present: a later time counts "
            "as now."
        ),
    ]

    def to_command(self, name: ScheduleName) -> BackfillSchedule:
        start = validation.moment(self.from_at, "from")
        end = validation.moment(self.until_at, "until")
        if end <= start:
            raise InvalidInput("until must be later than from.")
        return BackfillSchedule(name=name, from_at=start, until_at=end)
