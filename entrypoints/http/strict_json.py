"""Strict decoding of requests: no value is guessed or converted to another type."""

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
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import InternalServerException, RequestEntityTooLarge
from litestar.status_codes import HTTP_415_UNSUPPORTED_MEDIA_TYPE
from litestar.types import Empty
from msgspec import Meta, Raw, Struct
from msgspec.inspect import FloatType, IntType, Metadata, Type, UnionType, type_info

from domain.language.errors import InvalidInput, fresh_copy

BYTES_ON_THE_LOOP_MAX: Final = 64 * 1024  # larger bodies block the event loop for over 1 ms
LENIENT_BYTES_MAX: Final = 1024 * 1024  # of a batch that is decoded again, see `read_batch`
_OUT_OF_RANGE: Final = re.compile("Expected `(?:int|float)` [<>]= ")

# The types that a browser sends to another site without asking it first (Fetch, "CORS-safelisted
# request-header"). Without a type, programs send JSON.
_SIMPLE_TYPE: Final = re.compile(
    rb"(?:text/plain|application/x-www-form-urlencoded|multipart/form-data)\b", re.IGNORECASE
)

T = TypeVar("T")


class WrongMediaType(ClientException):
    """The request's Content-Type is none of JSON."""

    status_code = HTTP_415_UNSUPPORTED_MEDIA_TYPE
    detail = "This route accepts JSON; send it with `Content-Type: application/json`."


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON must have the handler's types: Litestar converts "3" to a number."""

    async def json(self) -> Any:  # noqa: ANN401 (as the handler's `data` is annotated)
        """Decode the body to the type of the handler's `data`.

        Raises `InvalidInput`, and `WrongMediaType` for a type that a page of any site may send.
        """
        for name, value in self.scope["headers"]:
            if name == b"content-type" and _SIMPLE_TYPE.match(value):
                raise WrongMediaType
        field = self.route_handler.parsed_data_field
        expected = Any if field is None else field.annotation
        body = await self.body()
        if len(body) <= BYTES_ON_THE_LOOP_MAX:
            return _read(body, expected)
        return await off_the_loop(len(body), lambda: _read(body, expected))

    async def body(self) -> bytes:
        """Return the whole body. Raises `RequestEntityTooLarge`, by Content-Length if it is sent.

        Litestar's method uses an asynchronous generator and converts all header fields, which costs
        an eighth of a refused submission.
        """
        known = self._connection_state.body
        if known is not Empty:
            return known
        bytes_max = self.route_handler.resolve_request_max_body_size() or math.inf
        for name, value in self.scope["headers"]:
            if name == b"content-length" and int(value) > bytes_max:  # the parser checked it
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
    """A body whose entries are decoded one by one, so that an invalid one affects no other."""

    entry: ClassVar[type[Struct]]  # the type of an entry
    jobs: Annotated[list[Raw], Meta(description="The entries, answered in the same order.")]


@contextlib.contextmanager
def disconnection(request: Request[Any, Any, Any]) -> Iterator[asyncio.Event]:
    """Yield an event that is set when the client disconnects. Use it after reading the body."""
    disconnected = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected.set()

    watcher = asyncio.create_task(watch(), name="disconnection")
    try:
        yield disconnected
    finally:
        watcher.cancel()


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


def exact_path_value(value: str, request: Request[Any, Any, Any], prefix: str) -> str:
    """Return a path parameter of the type `path` unchanged; `prefix` is the path before it.

    Litestar merges slashes in it and removes them from its end.
    """
    raw: bytes = request.scope["raw_path"]
    if b"%2F" not in raw.upper() or not raw.startswith(prefix.encode()):
        return value.removeprefix("/")
    return unquote_to_bytes(raw.removeprefix(prefix.encode())).decode()


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
