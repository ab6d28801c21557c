"""Types of JSON values in words, from their JSON schemas."""

import json
from collections.abc import Mapping
from typing import Any, Final

from domain.language.identifiers import POSITION_MAX
from fairlog_site.markdown import code

Schema = Mapping[str, Any]

_BOUNDS: Final = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
}
_SIZES: Final = {
    ("minLength", "maxLength"): "characters",
    ("minItems", "maxItems"): "entries",
}


def type_text(schema: Schema) -> str:
    """Describe a type in words. A reference `…/FOLDER/NAME` becomes a link to `FOLDER-NAME`."""
    if reference := schema.get("$ref"):
        _, folder, name = reference.rsplit("/", 2)
        return f"[{code(name)}](#{folder}-{name})"
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(type_text, schema[several])))
    kind = schema.get("type")
    if kind is None:
        return "any JSON value"
    if isinstance(kind, list):
        return " or ".join(kind)
    return ", ".join(part for part in (_of_kind(str(kind), schema), _bounds(schema)) if part)


def _of_kind(kind: str, schema: Schema) -> str:
    if kind == "array":
        if of_each := schema.get("prefixItems"):
            return f"array of {', then '.join(map(type_text, of_each))}"
        items = schema.get("items") or {}
        return f"array of {type_text(items)}" if items else "array"
    if kind == "object" and isinstance(values := schema.get("additionalProperties") or None, dict):
        return f"object of {type_text(values)}"
    if schema.get("format") == "date-time":
        return "time (RFC 3339)"
    return kind


def _bounds(schema: Schema) -> str:
    parts = [
        text.format(_number(schema[name]))
        for name, text in _BOUNDS.items()
        if name in schema and schema[name] != POSITION_MAX  # which bounds nothing in practice
    ]
    for (least, most), what in _SIZES.items():
        if most in schema:
            parts.append(f"{schema.get(least, 0):,} to {schema[most]:,} {what}")
        elif least in schema:
            parts.append(f"at least {schema[least]:,} {what}")
    return " ".join(parts)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
