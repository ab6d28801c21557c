"""Validation of the query, before Litestar converts it to a route's parameters.

Litestar converts `null` to None and `2026` to a time in 1970, takes the last of two values and
ignores unknown names. Each of these is refused here with a message.
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

# A key in a router's `opt`. Its pages have forms, whose empty fields are sent as empty values.
HAS_FORMS: Final = "has_forms"


class Parameter(Struct, frozen=True):
    """The type of a query parameter of a route."""

    is_number: bool  # a whole number from 0 to POSITION_MAX
    is_time: bool  # an RFC 3339 time
    is_repeatable: bool  # may occur more than once


async def check_query(request: Request[Any, Any, Any]) -> None:
    """Check the query of a request; called before each route. Raises `InvalidInput`."""
    text: bytes = request.scope["query_string"]
    if not text:
        return
    if not is_utf8(text):
        raise InvalidInput("The query is not percent-encoded UTF-8.")
    known = parameters_of(request.route_handler)
    may_be_empty = bool(request.route_handler.opt.get(HAS_FORMS))
    seen: set[str] = set()
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
        parameter = known.get(name)
        if parameter is None:
            raise InvalidInput(_unknown(name, known))
        if name in seen and not parameter.is_repeatable:
            raise InvalidInput(f"{name} occurs more than once; send it once.")
        seen.add(name)
        if value == "" and not may_be_empty:
            raise InvalidInput(f"{name} is empty; give it a value or leave it out.")
        if parameter.is_number:
            validation.whole_number(value, name, 0, POSITION_MAX)
        elif parameter.is_time:
            validation.time(value, name)


@cache
def parameters_of(handler: BaseRouteHandler) -> Mapping[str, Parameter]:
    """Return the query parameters of a route by their names in the query."""
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
        return "This address has no query parameters; leave the query out."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"There is no parameter {name[:40]!r}; the nearest is {near[0]}."
    return f"There is no parameter {name[:40]!r}; the parameters are {', '.join(known)}."
