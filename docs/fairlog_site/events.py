"""The events, from their types, docstrings and comments in `domain/language/events.py`."""

import inspect
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from domain.language import events
from domain.language.events import EVENT_TYPES
from fairlog_site.comments import comments_of
from fairlog_site.json_types import type_text
from fairlog_site.markdown import code, plain, table


def page() -> str:
    _, schemas = msgspec.json.schema_components(
        EVENT_TYPES.values(), ref_template="#/events/{name}"
    )
    others = sorted(schemas.keys() - EVENT_TYPES.keys())
    parts = ["## Types of events", *(_struct(cls, schemas) for cls in EVENT_TYPES.values())]
    parts += ["## Types of fields", *(_field_type(name, schemas) for name in others)]
    return "\n\n".join(parts) + "\n"


def _field_type(name: str, schemas: Mapping[str, Any]) -> str:
    cls = getattr(events, name)
    return _words(cls) if issubclass(cls, StrEnum) else _struct(cls, schemas)


def _struct(cls: type[Struct], schemas: Mapping[str, Any]) -> str:
    comments, properties = comments_of(cls), schemas[cls.__name__]["properties"]
    rows = [
        (
            code(field.name),
            _type(field, properties),
            "required" if field.required else code(_default(field)),
            plain(comments.get(field.name, "")),
        )
        for field in msgspec.structs.fields(cls)
        if field.name != "by"  # of every event; the introduction of the page has it
    ]
    return _section(cls, table(["field", "type", "default", "meaning"], rows))


def _type(field: FieldInfo, properties: Mapping[str, Any]) -> str:
    text = type_text(properties[field.encode_name])
    is_time = datetime in (field.type, *get_args(field.type))
    return text.replace("string", "time (RFC 3339)") if is_time else text


def _default(field: FieldInfo) -> str:
    made = field.default_factory
    value = field.default if made is msgspec.NODEFAULT else made()
    return msgspec.json.encode(value).decode()


def _words(cls: type[StrEnum]) -> str:
    comments = comments_of(cls)
    rows = [(code(one.value), plain(comments.get(one.name, ""))) for one in cls]
    return _section(cls, table(["word", "meaning"], rows))


def _section(cls: type, content: str) -> str:
    title = f"(events-{cls.__name__})=\n### {code(cls.__name__)}"
    return "\n\n".join([title, plain(inspect.getdoc(cls) or ""), content])
