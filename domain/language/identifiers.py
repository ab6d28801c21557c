"""Identifiers, each a type of its own so that one cannot be passed for another."""

from typing import Final, NewType

UserId = NewType("UserId", str)  # 1 to 255 bytes of UTF-8, compared byte for byte
JobId = NewType("JobId", int)  # the position of the job's JobSubmitted event
Kind = NewType("Kind", str)  # names the handler that runs a job
WorkerId = NewType("WorkerId", str)  # whoever holds a lease
ServerId = NewType("ServerId", str)  # a server process that runs jobs inside itself
KeyHash = NewType("KeyHash", bytes)  # 32 bytes: a user's idempotency key, see `key_hash`
ClaimHash = NewType("ClaimHash", bytes)  # 16 bytes: a worker's claim, see `claim_hash`

GLOBAL: Final = UserId("")  # the subject of global limits and counters; never a user's id
POSITION_MAX: Final = 2**63 - 1  # what BIGINT holds in every database
