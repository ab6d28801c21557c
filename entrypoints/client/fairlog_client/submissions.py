"""A job to submit, and its JSON."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import msgspec
from msgspec import Struct

from fairlog_client.errors import InvalidArguments
from fairlog_client.retry_policies import RetryPolicy
from fairlog_client.worker.json_values import check_json


class Submission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job to submit. Without `idempotency_key`, it gets a random one when it is sent first."""

    user_id: str  # who owns the job; limits and turns are by user
    kind: str  # the name of the handler
    payload: Any = None  # any JSON value
    idempotency_key: str | None = None
    # True: no key is sent, and an equal earlier submission is the same job; see the server's docs.
    deduplicate: bool = False
    run_at: datetime | None = None  # with a time zone; it does not start before
    expires_at: datetime | None = None  # with a time zone; cancelled if not started by then
    timeout_seconds: float | None = None  # the longest run of an attempt; None: the server's
    max_attempts: int | None = None  # None: the server's default
    # An object with its fields will do; None: as the kind says, else the server.
    retry: RetryPolicy | Mapping[str, Any] | None = None
    priority: int = 0  # among the user's own jobs, -1000 to 1000; a higher one is sooner
    # What it uses, such as `shopify:acme`, at most three names; limits may be set for each.
    resources: Sequence[str] = ()
    after: Sequence[int] = ()  # ids of jobs that must have ended before it starts, at most 1,000
    # If one of them fails or is cancelled: it fails, too, is cancelled, or runs all the same. None:
    # it fails.
    after_failure: Literal["fail", "run", "cancel"] | None = None
    callback: str | None = None  # a URL that is sent a signed message when the job has ended

    def content(self) -> bytes:
        """Return its JSON, with a key unless it is deduplicated. Raises `InvalidArguments`."""
        fields: dict[str, Any] = {
            "user_id": self.user_id,
            "kind": self.kind,
            "payload": self.payload,
        }
        if self.deduplicate:
            if self.idempotency_key is not None:
                raise InvalidArguments("deduplicate is for a submission without idempotency_key.")
            fields["deduplicate"] = True
        else:
            fields["idempotency_key"] = self.idempotency_key or uuid.uuid4().hex
        for name in ("run_at", "expires_at"):
            moment = getattr(self, name)
            if moment is not None:
                fields[name] = rfc3339(moment, name)
        for name in ("timeout_seconds", "max_attempts", "after_failure"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        if self.callback is not None:
            fields["callback"] = {"url": self.callback}
        if self.priority:
            fields["priority"] = self.priority
        if isinstance(self.resources, str):  # which is a sequence of texts as well
            raise InvalidArguments(f"resources is a list of names: [{self.resources!r}].")
        fields |= {
            name: list(given)
            for name, given in (("resources", self.resources), ("after", self.after))
            if given
        }
        try:
            # An encoder alone would turn NaN into null, and a set into a list.
            check_json(self.payload, "payload")
            if self.retry is not None:
                fields["retry"] = msgspec.to_builtins(self.retry)
                check_json(fields["retry"], "retry")
            return msgspec.json.encode(fields)
        except (TypeError, ValueError) as error:
            raise InvalidArguments(f"The submission cannot be sent as JSON: {error}") from None


def rfc3339(moment: datetime, name: str) -> str:
    """Raises `InvalidArguments` for a time without a time zone."""
    if moment.tzinfo is None:
        raise InvalidArguments(f"{name} needs a time zone, such as datetime.now(timezone.utc).")
    return moment.astimezone(timezone.utc).isoformat()
