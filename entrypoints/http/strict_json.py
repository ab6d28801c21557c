"""How requests are read: strictly. Nothing is guessed, and no type is turned into another."""

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request
from litestar.exceptions.http_exceptions import InternalServerException, RequestEntityTooLarge
from litestar.types import Empty
from msgspec import Meta, Raw, Struct
from msgspec.inspect import FloatType, IntType, Metadata, Type, UnionType, type_info

from domain.language.errors import InvalidInput, fresh_copy

BYTES_ON_THE_LOOP_MAX: Final = 64 * 1024  # about a millisecond's work
LENIENT_BYTES_MAX: Final = 1024 * 1024
_OUT_OF_RANGE: Final = re.compile("Expected `(?:int|float)` [<>]= ")

T = TypeVar("T")


class StrictRequest(Request[Any, Any, Any]):
    """Its JSON is what the handler expects: Litestar would take "3" for a number."""

    async def json(self) -> Any:  # noqa: ANN401 (as the handler's `data` is annotated)
        """Raises `InvalidInput`."""
        field = self.route_handler.parsed_data_field
        expected = Any if field is None else field.annotation
        body = await self.body()
        if len(body) <= BYTES_ON_THE_LOOP_MAX:
            return _read(body, expected)
        return await off_the_loop(len(body), lambda: _read(body, expected))

    async def body(self) -> bytes:
        """Return the whole body. Raises `RequestEntityTooLarge`, where announced before it comes.

        Litestar's own makes an asynchronous generator of it and looks at all header fields, which
        is an eighth of what a refused submission costs.
        """
        known = self._connection_state.body
        if known is not Empty:
            return known
        bytes_max = self.route_handler.resolve_request_max_body_size() or math.inf
        for name, value in self.scope["headers"]:
            if name == b"content-length" and int(value) > bytes_max:  # digits, as the parser saw
                raise RequestEntityTooLarge
        parts, size, more_body = [], 0, True
        while more_body:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise InternalServerException("client disconnected prematurely")
            part = message["body"]
            size += len(part)
            if size > bytes_max:
                raise RequestEntityTooLarge
            parts.append(part)
            more_body = message["more_body"]
        self._connection_state.body = body = parts[0] if len(parts) == 1 else b"".join(parts)
        return body


def _read(body: bytes, expected: Any) -> Any:  # noqa: ANN401 (a type, and a value of that type)
    if isinstance(expected, type) and issubclass(expected, RequestBatch):
        return read_batch(body, expected)
    return read_json(body, expected)


class RequestBatch(Struct, forbid_unknown_fields=True):
    """A body whose entries are read one by one: a bad one must not spoil its neighbours."""

    entry: ClassVar[type[Struct]]
    jobs: Annotated[list[Raw], Meta(description="The entries, answered in the same order.")]


@contextlib.contextmanager
def hanging_up(request: Request[Any, Any, Any]) -> Iterator[asyncio.Event]:
    """An event that is set when the caller hangs up. For use when the body has been read."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watching = asyncio.create_task(watch(), name="hanging-up")
    try:
        yield gone
    finally:
        watching.cancel()


async def off_the_loop(size: int, work: Callable[[], T]) -> T:
    """Do work on so many bytes: in a thread where that takes longer than the others may wait."""
    if size <= BYTES_ON_THE_LOOP_MAX:
        return work()
    return await asyncio.to_thread(work)


def size_of(*texts: Raw) -> int:
    """Return their bytes, without a copy of them."""
    return sum(memoryview(text).nbytes for text in texts)


def read_json(data: bytes, expected: Any) -> Any:  # noqa: ANN401 (a type, and a value of that type)
    """Raises `InvalidInput` with a sentence that says what is wrong, and where."""
    try:
        return _decoder(expected).decode(data)
    except msgspec.ValidationError as error:
        raise InvalidInput(_sentence(str(error), expected)) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"Not accepted: this is no JSON: {_reason(str(error))}.") from None
    except UnicodeDecodeError:
        raise InvalidInput("Not accepted: the body is no valid UTF-8.") from None
    except RecursionError:
        raise InvalidInput("The JSON is nested too deep; flatten it.") from None


def read_batch(data: bytes, expected: type[RequestBatch]) -> RequestBatch:
    """Raises `InvalidInput` where no entry can be told from another.

    msgspec looks into all texts at once and refuses the whole for half a surrogate pair in one of
    them. The standard library lets that pass, and so the one entry is refused by itself; in a body
    so long that the objects made of it would cost too much, all are.
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


def is_utf8(part: bytes) -> bool:
    """Say whether a part of an address is UTF-8, percent-encoded or not.

    Where it is not, the server would put U+FFFD for what it cannot read, and two different user
    ids would become one.
    """
    if b"%" not in part and part.isascii():
        return True
    try:
        unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return False
    return True


def exact(value: str, request: Request[Any, Any, Any], prefix: str) -> str:
    """A path parameter of the type `path` byte for byte; `prefix` is what stands before it.

    Litestar merges the slashes in it, and takes them off its end.
    """
    raw: bytes = request.scope["raw_path"]
    if b"%2F" not in raw.upper() or not raw.startswith(prefix.encode()):
        return value.removeprefix("/")
    return unquote_to_bytes(raw.removeprefix(prefix.encode())).decode()


@lru_cache
def _decoder(expected: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 (a type)
    return msgspec.json.Decoder(expected)


def _sentence(message: str, expected: Any) -> str:  # noqa: ANN401 (a type)
    """Say in our words what msgspec says like "Expected `str`, got `int` - at `$.user_id`"."""
    reason, _, place = message.partition(" - at `$")
    name = place.rstrip("`").removeprefix(".")
    if _OUT_OF_RANGE.match(reason) and (accepted := _ranges(expected).get(name)):
        return f"{name} is {accepted}."
    return f"Not accepted: {'the body' if not name or name[0] == '[' else name}: {reason}."


@lru_cache
def _ranges(expected: Any) -> dict[str, str]:  # noqa: ANN401 (a type)
    """Return the ranges of a struct's fields that have a least and a greatest number."""
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
    if message == "Input data was truncated":  # also of half a surrogate pair at the end of a text
        return "it ends too soon, or a text in it ends with half of a surrogate pair"
    return message.removeprefix("JSON is malformed: ")
