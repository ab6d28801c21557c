"""The rights of each role. `entrypoints/http/access.py` says which route needs which."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from domain.language.events import Role


class Right(StrEnum):
    """A right of an API key. Those about jobs hold for the key's users and kinds."""

    SUBMIT = "submit"  # submit jobs
    READ = "read"  # look at jobs, limits and events
    CHANGE_JOBS = "change_jobs"  # cancel and retry jobs
    WORK = "work"  # claim jobs and report on them
    READ_ALL = "read_all"  # what is about no single user: global limits, the line, metrics
    OPERATE = "operate"  # limits, many jobs at once, attempts of other workers
    KEYS = "keys"  # create, list, rotate and revoke keys
    ERASE = "erase"  # erase bodies


_SUBMITTER: Final = frozenset({Right.SUBMIT, Right.READ, Right.CHANGE_JOBS})
_OPERATOR: Final = _SUBMITTER | {Right.READ_ALL, Right.OPERATE}
RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.SUBMITTER: _SUBMITTER,
    Role.WORKER: frozenset({Right.WORK}),
    Role.READER: frozenset({Right.READ, Right.READ_ALL}),
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: frozenset(Right),
}
