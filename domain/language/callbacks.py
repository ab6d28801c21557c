"""The words of callbacks: messages that tell an address the end of a job, each sent by a job of the
service's own.
"""

from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from domain.language.identifiers import CallbackName, JobId, Kind, UserId

CALLBACK_KIND: Final = Kind("fairlog.callback")  # of the jobs that deliver; nobody else submits any
CALLBACK_USERS: Final = "fairlog.callback/"  # followed by the host: whose jobs they are
# Whose secret signs what goes to a URL that came with a job; no endpoint has this name.
OF_SUBMISSIONS: Final = CallbackName("default")

CALLBACKS_MAX: Final = 50  # endpoints: the end of a job tells each of them
NAMED_MAX: Final = 100  # kinds of one endpoint, and users
DELIVERIES_KEPT: Final = 100  # of one job, in its row: the latest
OVERLAP_SECONDS: Final = 86_400.0  # after a rotation, while the secret before it signs too
OVERLAP_SECONDS_MAX: Final = 31_622_400  # 366 days


class Delivery(Struct, frozen=True, omit_defaults=True):
    """The content of a delivery, a job of the service's own: one end, for one address."""

    job: JobId  # that ended
    position: int  # of the event that ended it
    callback: CallbackName | None = None  # the endpoint; None: the URL of the submission


def delivery_user(url: str) -> UserId:
    """Return the user of deliveries to a URL: one for each host, so that hosts take turns."""
    return UserId(f"{CALLBACK_USERS}{urlsplit(url).hostname or ''}")
