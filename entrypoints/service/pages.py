"""Pages of jobs that are limited in bytes, since the server keeps them until the client reads."""

import difflib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.jobs.job import Job
from domain.language.errors import InvalidInput
from entrypoints.runtime.page_bytes import fitting

_ERROR_BYTES_MAX: Final = 2_000  # of a shortened error
_MESSAGE_CHARACTERS_MAX: Final = 500


class Included(Struct, frozen=True):
    """The bodies that an answer includes for each job."""

    payload: bool = True
    result: bool = True
    error: bool = True  # False: shortened, see `shortened_error`

    def places(self, job: Job) -> list[int]:
        """Return the positions of the bodies to read for a job; its error and the
        message of its progress are always read.
        """
        wanted = [
            job.id if self.payload else None,
            job.result_position if self.result else None,
            job.error_position,
            job.progress_position,
        ]
        return [position for position in wanted if position is not None]


EVERYTHING: Final = Included()
SHORTENED_ERRORS: Final = Included(payload=False, result=False, error=False)


def included_of(names: str | None) -> Included:
    """Parse the parameter `include`, such as `payload,result`. None: errors only, shortened.

    Raises `InvalidInput`.
    """
    if names is None:
        return SHORTENED_ERRORS
    known = Included.__struct_fields__
    wanted = names.split(",")
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
            raise InvalidInput(f"include cannot name {name[:40]!r}; {hint}.")
    return Included(**{name: name in wanted for name in known})


def fitting_jobs(
    connection: Connection, jobs: Sequence[Job], included: Included, bytes_max: int
) -> tuple[Sequence[Job], int]:
    """Return the first jobs whose bodies fit into `bytes_max`, at least one, and their bytes."""
    places = [included.places(job) for job in jobs]
    found = audit_log.body_sizes(connection, [place for some in places for place in some])
    sizes = [sum(found.get(one, 0) for one in some) for some in places]
    shown = fitting(jobs, sizes, bytes_max)
    return shown, sum(sizes[: len(shown)])


def shortened_error(error: Raw) -> Raw:
    """Return an error without its traceback; a long one keeps only its type and clipped message.

    `error` is JSON. An error that is short and has no traceback is returned unchanged.
    """
    text = bytes(error)
    if len(text) <= _ERROR_BYTES_MAX and b'"traceback"' not in text:
        return error
    value = msgspec.json.decode(text, type=dict[str, Raw] | list[Raw] | str | float | bool | None)
    if isinstance(value, dict):
        value.pop("traceback", None)
        without = msgspec.json.encode(value)
        if len(without) <= _ERROR_BYTES_MAX:
            return Raw(without)
        shown = {name: _clipped(value[name]) for name in ("type", "message") if name in value}
        return Raw(msgspec.json.encode(shown))
    return error if len(text) <= _ERROR_BYTES_MAX else Raw(msgspec.json.encode(_clipped(error)))


def _clipped(text: Raw) -> str:
    """Return the beginning of a text, or of the JSON of any other value."""
    value = msgspec.json.decode(text, type=str) if bytes(text)[:1] == b'"' else bytes(text).decode()
    if len(value) <= _MESSAGE_CHARACTERS_MAX:
        return value
    return f"{value[: _MESSAGE_CHARACTERS_MAX - 1]}…"
