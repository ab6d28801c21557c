"""The query of an address: checked before a route's parameters are made of it.

Litestar would take `null` for nothing, `2026` for a time in 1970 and the last of two values, and
leave out what it does not know. Here each of them is refused with a sentence.
"""

import difflib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final, get_args
from urllib.parse import parse_qsl

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.params import ParameterKwarg, QueryParameter
from litestar.typing import FieldDefinition
from msgspec import Struct

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX
from entrypoints.http.strict_json import is_utf8

# In a router's `opt`: pages with forms, whose fields come empty where nothing was entered.
HAS_FORMS: Final = "has_forms"


class Parameter(Struct, frozen=True):
    """What a route takes under a name."""

    is_number: bool
    is_time: bool
    is_repeatable: bool


async def check_query(request: Request[Any, Any, Any]) -> None:
    """Called before each route. Raises `InvalidInput`."""
    text: bytes = request.scope["query_string"]
    if not text:
        return
    if not is_utf8(text):
        raise InvalidInput("The query is not valid UTF-8, percent-encoded.")
    known = parameters_of(request.route_handler)
    may_be_empty = bool(request.route_handler.opt.get(HAS_FORMS))
    seen: set[str] = set()
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
        parameter = known.get(name)
        if parameter is None:
            raise InvalidInput(_unknown(name, known))
        if name in seen and not parameter.is_repeatable:
            raise InvalidInput(f"{name} is there more than once; give it once.")
        seen.add(name)
        if value == "" and not may_be_empty:
            raise InvalidInput(f"{name} is empty; give it a value, or leave it out.")
        if parameter.is_number:
            validation.whole_number(value, name, 0, POSITION_MAX)
        elif parameter.is_time:
            validation.time(value, name)


@cache
def parameters_of(handler: BaseRouteHandler) -> Mapping[str, Parameter]:
    """What a route takes from the query, by its name there."""
    fields = handler.parsed_fn_signature.parameters
    return {
        _kwarg(field).name or name: _parameter(field)
        for name, field in fields.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }


def _kwarg(field: FieldDefinition) -> ParameterKwarg:
    assert isinstance(field.kwarg_definition, ParameterKwarg)
    return field.kwarg_definition


def _parameter(field: FieldDefinition) -> Parameter:
    types = get_args(field.annotation) or (field.annotation,)
    return Parameter(
        is_number=int in types,
        is_time=datetime in types,
        is_repeatable=field.is_non_string_sequence
        or any(inner.is_non_string_sequence for inner in field.inner_types),
    )


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    if not known:
        return "This address takes no query; leave it out."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"There is no parameter {name[:40]!r} here; the nearest is {near[0]}."
    return f"There is no parameter {name[:40]!r} here; there are {', '.join(known)}."
