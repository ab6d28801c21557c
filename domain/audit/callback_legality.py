"""Legality of callbacks: each delivery tells the end of a job, in the batch of that end, to whom it
has to be told.
"""

from collections.abc import Mapping
from typing import assert_never

from domain.callbacks.callbacks import Callbacks
from domain.jobs.job import ENDED, Job
from domain.language import validation
from domain.language.callbacks import CALLBACK_KIND, CALLBACK_USERS, Delivery, delivery_user
from domain.language.errors import InvalidInput
from domain.language.events import (
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    JobSubmitted,
    Recorded,
)
from domain.language.identifiers import JobId

_CallbackEvent = CallbackSet | CallbackDeleted | CallbackSecretRotated


def check_callback_event(_: Job | None, recorded: Recorded, event: _CallbackEvent) -> str | None:
    """Check what needs no other event; `miscalled` checks the rest."""
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    match event:
        case CallbackSet():
            return _unless_url(event.url)
        case CallbackSecretRotated():
            if event.earlier_until < recorded.recorded_at:
                return "the secret before it had ended already"
            return None if event.version > 1 else f"it makes version {event.version} of a secret"
        case CallbackDeleted():
            return None
        case _:
            assert_never(event)


def check_callbacks(event: JobSubmitted) -> str | None:
    """Check the URL of a submission, and that deliveries alone have their kind and users."""
    if event.callback is not None and (wrong := _unless_url(event.callback)):
        return wrong
    if event.delivery is None:
        return None
    if event.kind != CALLBACK_KIND or not event.user_id.startswith(CALLBACK_USERS):
        return "it delivers a callback, and is of another kind or user"
    if event.callback is not None:
        return "it delivers a callback, and has one itself"
    return None


def miscalled(callbacks: Callbacks, jobs: Mapping[JobId, Job], recorded: Recorded) -> str | None:
    """Say what is wrong with an endpoint's event or a delivery, given the state before it; None if
    nothing is.
    """
    event = recorded.event
    match event:
        case CallbackDeleted() | CallbackSecretRotated():
            row = callbacks.rows.get(event.name)
            if isinstance(event, CallbackDeleted):
                is_set = row is not None and row.url is not None
                return None if is_set else f"there was no endpoint {event.name!r}"
            version = 1 if row is None else row.version
            if event.version != version + 1:
                return f"version {event.version} of a secret follows version {version}"
        case JobSubmitted(delivery=Delivery() as delivery):
            job = jobs.get(delivery.job)
            if job is None:
                return f"it tells the end of job {delivery.job}, which did not exist"
            return _wrong_end(job, delivery, recorded) or _wrong_address(
                callbacks, job, delivery, event
            )
    return None


def _wrong_end(job: Job, delivery: Delivery, recorded: Recorded) -> str | None:
    if job.kind == CALLBACK_KIND:
        return f"it tells the end of job {job.id}, which is a delivery itself"
    if job.state not in ENDED:
        return f"it tells the end of job {job.id}, which was {job.state.value}"
    if job.finished_at != recorded.recorded_at or not job.id < delivery.position < (
        recorded.position
    ):
        return f"it tells another end of job {job.id} than the latest, in another batch"
    return None


def _wrong_address(
    callbacks: Callbacks, job: Job, delivery: Delivery, event: JobSubmitted
) -> str | None:
    if delivery.callback is None:
        url = job.callback
    else:
        row = callbacks.rows.get(delivery.callback)
        is_told = row is not None and row.is_told_of(job.user_id, job.kind)
        url = row.url if row is not None and is_told else None
    if url is None:
        return f"nobody there was to be told the end of job {job.id}"
    if delivery_user(url) != event.user_id:
        return f"it is of {event.user_id!r}, and goes to the host of {delivery_user(url)!r}"
    return None


def _unless_url(url: str) -> str | None:
    try:
        validation.callback_url(url)
    except InvalidInput as error:
        return f"its URL cannot be: {error}"
    return None
