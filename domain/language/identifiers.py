"""Identifiers, each with a type of its own, so that mypy finds one passed for another."""

from typing import Final, NewType

UserId = NewType("UserId", str)  # 1 to 255 bytes of UTF-8, compared byte for byte
JobId = NewType("JobId", int)  # the position of the job's JobSubmitted event
Kind = NewType("Kind", str)  # the name of the handler that runs a job, 1 to 255 bytes of UTF-8
WorkerId = NewType("WorkerId", str)  # the worker that holds a lease, 1 to 255 bytes of UTF-8
ServerId = NewType("ServerId", str)  # a server process with an embedded worker
KeyHash = NewType("KeyHash", bytes)  # 32 bytes: a user's idempotency key, see `key_hash`
ClaimHash = NewType("ClaimHash", bytes)  # 16 bytes: a worker's claim, see `claim_hash`
PlanName = NewType("PlanName", str)  # a set of limits that users share, 1 to 255 bytes of UTF-8
# What jobs use together, such as an external account; 1 to 255 bytes of UTF-8. A submission names
# one; a setting names one, or all that begin alike: a prefix and `*`.
ResourceName = NewType("ResourceName", str)
ScheduleName = NewType("ScheduleName", str)  # 1 to 255 bytes of UTF-8; of all users together
CallbackName = NewType("CallbackName", str)  # an endpoint of callbacks, as the name of a key
KeyName = NewType("KeyName", str)  # the name of an API key, never used for another one
SecretId = NewType("SecretId", str)  # the public part of an API key's secret

GLOBAL: Final = UserId("")  # the subject of global limits and counters; never a user's id
DEFAULT_PLAN: Final = PlanName("default")  # of users on no plan; without effect until it is set
POSITION_MAX: Final = 2**63 - 1  # of the log; the largest BIGINT of every database
