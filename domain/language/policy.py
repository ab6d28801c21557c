"""The numbers that rules are applied with; from the settings, the same for every process."""

from msgspec import Struct


class Policy(Struct, frozen=True, kw_only=True):
    window_seconds: int = 60
    user_limit: int = 600  # submissions a window, for each user
    global_limit: int = 6000  # submissions a window, for all users together
    lease_seconds: int = 30
    idempotency_seconds: int = 86_400  # how long a key means the same job
    max_attempts: int = 3
    timeout_seconds: float | None = None  # of a job that is submitted without; None: none
    retry_seconds: float = 1.0  # delay before the second attempt; doubles with each further one
    retry_seconds_max: float = 3600.0
    kinds_waiting_max: int = 100  # of one user at once: bounds the work that one turn costs
