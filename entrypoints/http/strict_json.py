"""Strict decoding of JSON: no value is guessed or converted to another type."""

import asyncio
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.inspect import FloatType, IntType, Metadata, Type, UnionType, type_info

from domain.language.errors import InvalidInput, fresh_copy

BYTES_ON_THE_LOOP_MAX: Final = 64 * 1024  # larger bodies block the event loop for over 1 ms
LENIENT_BYTES_MAX: Final = 1024 * 1024  # of a batch that is decoded again, see `read_batch`
_OUT_OF_RANGE: Final = re.compile("Expected `(?:int|float)` [<>]= ")

T = TypeVar("T")


class RequestBatch(Struct, forbid_unknown_fields=True):
    """A body whose entries are decoded one by one, so that an invalid one affects no other."""

    entry: ClassVar[type[Struct]]  # the type of an entry
    jobs: Annotated[list[Raw], Meta(description="The entries, answered in the same order.")]


async def off_the_loop(size: int, work: Callable[[], T]) -> T:
    """Run `work` on `size` bytes, in a thread if it would block the event loop for too long."""
    if size <= BYTES_ON_THE_LOOP_MAX:
        return work()
    return await asyncio.to_thread(work)


def size_of(*texts: Raw) -> int:
    """Return the total bytes of the texts, without copying them."""
    return sum(memoryview(text).nbytes for text in texts)


def read_json(data: bytes, expected: Any) -> Any:  # noqa: ANN401 (a type, and a value of that type)
    """Decode JSON to the expected type. Raises `InvalidInput`, which names the field and reason."""
    try:
        return _decoder(expected).decode(data)
    except msgspec.ValidationError as error:
        raise InvalidInput(_message(str(error), expected)) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"Not accepted: this is not JSON: {_reason(str(error))}.") from None
    except UnicodeDecodeError:
        raise InvalidInput("Not accepted: the body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidInput("The JSON is nested too deeply; flatten it.") from None


def read_batch(data: bytes, expected: type[RequestBatch]) -> RequestBatch:
    """Split a batch into its entries. Raises `InvalidInput` if that is impossible.

    msgspec checks all strings at once and refuses a whole batch for half of a surrogate pair in one
    of them. The standard library accepts it, so that later only this entry is refused. A batch of
    more than LENIENT_BYTES_MAX is refused as a whole, since its objects would use too much memory.
    """
    try:
        batch: RequestBatch = read_json(data, expected)
    except InvalidInput as error:
        if len(data) > LENIENT_BYTES_MAX:
            raise
        try:
            lenient = json.loads(data.decode(errors="surrogatepass"))
            entries = lenient["jobs"]
            batch = msgspec.convert(lenient | {"jobs": []}, expected)
        except (ValueError, TypeError, KeyError, RecursionError, msgspec.ValidationError):
            raise fresh_copy(error) from None
        if not isinstance(entries, list):
            raise
        batch.jobs = [Raw(json.dumps(entry).encode()) for entry in entries]
    return batch


_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")


def is_utf8(part: bytes) -> bool:
    """Return True if a part of an address is UTF-8, percent-encoded or not.

    In any other text the server would replace bytes by U+FFFD, and two user ids could become one.
    """
    if b"%" not in part and part.isascii():
        return True
    try:
        unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache
def _decoder(expected: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 (a type)
    return msgspec.json.Decoder(expected)


def _message(message: str, expected: Any) -> str:  # noqa: ANN401 (a type)
    """Rewrite a message of msgspec, like "Expected `str`, got `int` - at `$.user_id`"."""
    reason, _, place = message.partition(" - at `$")
    missing = _MISSING.match(reason)
    if missing is not None and missing[1] in (advice := getattr(expected, "advice", {})):
        return str(advice[missing[1]])
    name = place.rstrip("`").removeprefix(".")
    if _OUT_OF_RANGE.match(reason) and (accepted := _ranges(expected).get(name)):
        return f"{name} is {accepted}."
    return f"Not accepted: {'the body' if not name or name[0] == '[' else name}: {reason}."


@lru_cache
def _ranges(expected: Any) -> dict[str, str]:  # noqa: ANN401 (a type)
    """Return the ranges of a struct's fields that have a minimum and a maximum, by field."""
    fields = getattr(type_info(expected), "fields", ())
    ranges = {field.encode_name: _range(field.type) for field in fields}
    return {name: found for name, found in ranges.items() if found is not None}


def _range(accepted: Type) -> str | None:
    match accepted:
        case Metadata(type=inner):
            return _range(inner)
        case UnionType(types=types):
            return next(filter(None, map(_range, types)), None)
        case IntType(ge=int(least), le=int(greatest)):
            return f"a whole number from {least} to {greatest}"
        case FloatType(ge=least, le=greatest) if None not in {least, greatest}:
            return f"a number from {least} to {greatest}"
        case _:
            return None


def _reason(message: str) -> str:
    if message == "Input data was truncated":  # also for half of a surrogate pair
        return "it is truncated, or a string in it ends with half of a surrogate pair"
    return message.removeprefix("JSON is malformed: ")
