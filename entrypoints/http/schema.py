"""The page /schema: an OpenAPI document whose types are described by msgspec.

Litestar's own description of a msgspec type omits limits of 0 and most metadata of nested
`Annotated` types.
"""

from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition
from msgspec import Struct

from entrypoints.http.access import PUBLIC, rule_of
from entrypoints.http.operation_names import name_operations
from entrypoints.http.problem_responses import ProblemDetails, describe_problems
from entrypoints.http.strict_json import RequestBatch

_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "The secret of an API key, on a server that requires keys.",
}
_REFERENCE: Final = "#/components/schemas/{name}"


class StructSchemas(OpenAPISchemaPlugin):
    """A plugin that replaces types of requests and answers by references, and collects them."""

    def __init__(self) -> None:
        self.types: dict[type[Struct], None] = {}  # an ordered set

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return not field_definition.is_union and field_definition.is_subclass_of(Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Any:  # noqa: ANN401 (private types of Litestar's)
        self.types[field_definition.annotation] = None
        return schema_creator.create_component_schema(
            field_definition, required=[], property_fields={}
        )


class SchemaPage(JsonRenderPlugin):
    """A plugin that renders the document, with msgspec's schemas of the collected types."""

    def __init__(self, structs: StructSchemas) -> None:
        super().__init__(path=["/", "/openapi.json"])
        self._structs = structs

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        batches = [one for one in self._structs.types if issubclass(one, RequestBatch)]
        _, described = msgspec.json.schema_components(
            [*self._structs.types, *(batch.entry for batch in batches), ProblemDetails],
            ref_template=_REFERENCE,
        )
        for batch in batches:
            entries = described[batch.__name__]["properties"]["jobs"]
            entries["items"] = {"$ref": _REFERENCE.format(name=batch.entry.__name__)}
        openapi_schema["components"]["schemas"] |= described
        problem = {"$ref": _REFERENCE.format(name=ProblemDetails.__name__)}
        describe_problems(openapi_schema["paths"], problem)
        name_operations(openapi_schema["paths"])
        openapi_schema["components"]["securitySchemes"] = {"key": _KEY}
        for path, calls in openapi_schema["paths"].items():
            for method, call in calls.items():
                call["security"] = [] if rule_of(method.upper(), path) == PUBLIC else [{"key": []}]
        return super().render(request, openapi_schema)
