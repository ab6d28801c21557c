"""The parameters of the rules. They come from the settings; every process must have the same."""

from msgspec import Struct

from domain.language.limits import RetryPolicy


class Policy(Struct, frozen=True, kw_only=True):
    """Parameters of the rules. The settings of the same names (adapters/settings.py) have ranges.

    An event records the limits that it was decided under, so a later change alters no history.
    """

    window_seconds: int = 60  # length of a rate-limit window, from 1
    user_limit: int = 600  # submissions per window for each user without a limit of their own
    global_limit: int = 6000  # submissions per window for all users together
    lease_seconds: int = 30  # from a claim or heartbeat to the end of the lease, from 1
    idempotency_seconds: int = 86_400  # from a submission, how long its key means the same job
    deduplicate: bool = True  # submissions without a key that do not say themselves
    max_attempts: int = 3  # that may fail, from 1, of a job submitted without its own
    timeout_seconds: float | None = None  # of one attempt, likewise; None: no time-out
    retry: RetryPolicy | None = None  # of jobs, for what neither they nor their kinds say
    kinds_waiting_max: int = 100  # kinds of a user's waiting jobs; bounds the cost of one turn
    lanes_waiting_max: int = 1_000  # kinds and sets of resources of them; likewise
    queues_waiting_max: int = 10_000  # sets of resources of a kind's waiting jobs, of all users
