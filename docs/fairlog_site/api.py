"""The HTTP API, from the OpenAPI document that the application serves at /schema."""

import asyncio
import json
from collections import Counter
from collections.abc import Container, Iterator
from http import HTTPStatus
from typing import Any, Final

import httpx

from domain.access.rights import RIGHTS
from entrypoints.http.access import RULES
from entrypoints.http.edge import EdgeApp
from fairlog_site.application import HOST, application
from fairlog_site.json_types import Schema, type_text
from fairlog_site.markdown import code, plain, table

_TAGS: Final = {
    "jobs": "Jobs",
    "workers": "Workers",
    "limits": "Limits",
    "keys": "API keys",
    "audit": "The log",
    "health": "Health",
    "legacy": "Calls of the system that Fairlog replaces",
}
_CALLS_WITH_A_SPECIAL_REFUSAL: Final = 8  # more have it: it is no longer special
_METHODS: Final = ("post", "get", "put", "delete")


def page() -> str:
    document = openapi_document()
    parts = [plain(document["info"]["description"])]
    by_tag = _by_tag(document)
    common = sorted(_common_refusals(document))
    for tag in sorted(by_tag, key=[*_TAGS, *by_tag].index):
        parts += [f"## {_TAGS.get(tag, tag.capitalize())}", *by_tag[tag]]
    parts += ["## Refusals that most calls have", table(["status", "meaning"], common), "## Types"]
    schemas = document["components"]["schemas"]
    parts += [_component(name, schemas[name]) for name in sorted(schemas)]
    return "\n\n".join(parts) + "\n"


def openapi_document() -> dict[str, Any]:
    with application() as app:
        document: dict[str, Any] = json.loads(asyncio.run(_served_schema(app)))
    return document


async def _served_schema(app: EdgeApp) -> bytes:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
        return (await client.get("/schema")).raise_for_status().content


def _by_tag(document: Schema) -> dict[str, list[str]]:
    common = _common_refusals(document)
    found: dict[str, list[str]] = {}
    for method, path, operation in _operations(document):
        [tag] = operation["tags"]
        found.setdefault(tag, []).append(_operation(method, path, operation, common))
    return found


def _operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, calls in sorted(document["paths"].items()):
        for method in sorted(calls, key=_METHODS.index):
            yield method, path, calls[method]


def _common_refusals(document: Schema) -> frozenset[tuple[str, str]]:
    """Return the refusals that many calls have, which are described once."""
    counts = Counter(one for _, _, call in _operations(document) for one in _refusals(call))
    return frozenset(one for one, count in counts.items() if count > _CALLS_WITH_A_SPECIAL_REFUSAL)


def _operation(
    method: str, path: str, operation: Schema, common: Container[tuple[str, str]]
) -> str:
    parts = [
        f"(call-{operation['operationId']})=\n### {code(f'{method.upper()} {path}')}",
        plain(operation.get("description", "")),
        f"Roles: {_roles(method, path)}.",
        table(
            ["parameter", "in", "type", "meaning"],
            map(_parameter, operation.get("parameters", ())),
        ),
    ]
    if body := operation.get("requestBody"):
        parts.append(f"Body: {_content(body)}.")
    parts += [_answer(status, answer) for status, answer in _answers(operation)]
    special = [one for one in _refusals(operation) if one not in common]
    parts.append(table(["refusal", "meaning"], special))
    return "\n\n".join(part for part in parts if part)


def _answer(status: str, answer: Schema) -> str:
    text = f"Answer {code(status)}: {_content(answer)}."
    known = HTTPStatus(int(status))
    description = answer.get("description", "")
    return text if description in {known.phrase, known.description} else f"{text} {description}."


def _roles(method: str, path: str) -> str:
    """Name the roles of the keys that a call accepts."""
    rule = RULES[method.upper(), path]
    if not rule:
        return "none; no key is needed"
    return ", ".join(role.value for role, rights in RIGHTS.items() if rights & rule)


def _answers(operation: Schema) -> Iterator[tuple[str, Schema]]:
    for status, answer in sorted(operation["responses"].items()):
        if int(status) < HTTPStatus.BAD_REQUEST:
            yield status, answer


def _refusals(operation: Schema) -> Iterator[tuple[str, str]]:
    """Yield the status and the meaning of each refusal."""
    for status, answer in sorted(operation["responses"].items()):
        if int(status) >= HTTPStatus.BAD_REQUEST:
            yield code(status), plain(answer["description"])


def _parameter(parameter: Schema) -> tuple[str, str, str, str]:
    name = code(parameter["name"]) + (" (required)" if parameter.get("required") else "")
    return name, parameter["in"], type_text(parameter["schema"]), _meaning(parameter)


def _content(answer: Schema) -> str:
    content = answer.get("content")
    if not content:
        return "none"
    return ", ".join(
        f"{type_text(of['schema']) if media == 'application/json' else code(media)}"
        for media, of in content.items()
    )


def _component(name: str, schema: Schema) -> str:
    fields = schema.get("properties", {})
    required = schema.get("required", ())
    parts = [
        f"(schemas-{name})=\n### {code(name)}",
        plain(schema.get("description", "")),
        "" if fields else type_text(schema),
        table(
            ["field", "type", "meaning"],
            (
                (
                    code(field) + (" (required)" if field in required else ""),
                    type_text(described),
                    _meaning(described),
                )
                for field, described in fields.items()
            ),
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _meaning(described: Schema) -> str:
    schema = described.get("schema", described)
    parts = [plain(described.get("description", ""))]
    if "default" in schema:
        parts.append(f"Default: {code(json.dumps(schema['default']))}.")
    return " ".join(part for part in parts if part)
