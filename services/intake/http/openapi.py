"""The OpenAPI 3.1 document of the API, from the declarations of its endpoints and the Structs in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from mloc.services.intake.http.endpoint import Endpoint, Media, Parameter, names_in, parameters_of, plain_path
from mloc.services.intake.http.responses import ErrorAnswer

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_ABOUT = """Tasks go in, what became of them comes out. Every error is one shape: a code for programs, a message and a hint for people, \
the path of what is wrong. Times are ISO 8601, UTC; sizes are bytes."""
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}}}


def openapi_document(endpoints: Sequence[Endpoint]) -> Schema:
    """The whole document, ready for JSON."""
    types = list(dict.fromkeys((ErrorAnswer, *(kind for endpoint in endpoints for kind in _types_of(endpoint)))))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    described = _Described(dict(zip(types, schemas, strict=True)))
    paths: Schema = {}
    for endpoint in endpoints:
        for number, path in enumerate(endpoint.paths):
            operation = described.operation(endpoint, f"{endpoint.handler.__name__}{f'_at_{number + 1}' if number else ''}")
            paths.setdefault(plain_path(path), {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "MLOC", "version": "1", "description": _ABOUT, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def refusals(endpoint: Endpoint) -> list[int]:
    """Statuses of the errors that a request to this endpoint may be answered with."""
    found = {400, 503, *endpoint.errors}
    if endpoint.access != "open":
        found |= {401, 429}
    if names_in(endpoint.path):
        found.add(404)
    if endpoint.body is not None:
        found |= {408, 413, 422}
    if endpoint.method != "GET":
        found.add(403)
    return sorted(found)


class _Described:
    """Operations over the schemas of all types in use."""

    def __init__(self, schemas: Mapping[Any, Schema]) -> None:
        self._schemas = schemas

    def operation(self, endpoint: Endpoint, name: str) -> Schema:
        operation: Schema = {
            "operationId": name, "summary": endpoint.summary, "tags": [endpoint.path.removeprefix("/api/v1").split("/")[1]],
            "security": [] if endpoint.access == "open" else [{"token": []}, {}] if endpoint.access == "metrics" else [{"token": []}],
            "responses": {str(status): self._answer(status, kind) for status, kind in endpoint.answers.items()},
        }  # fmt: skip
        for status in refusals(endpoint):
            operation["responses"].setdefault(str(status), self._answer(status, ErrorAnswer))
        if parameters := [self._parameter(endpoint, one) for one in parameters_of(endpoint.parameters, endpoint.path)]:
            operation["parameters"] = parameters
        if endpoint.body is not None:
            operation["requestBody"] = {"required": isinstance(endpoint.body, Media), "content": self._content(endpoint.body)}
        return operation

    def _answer(self, status: int, kind: Any) -> Schema:
        about = kind.about if isinstance(kind, Media) else ""
        answer: Schema = {"description": about or HTTPStatus(status).phrase, "content": self._content(kind)}
        if status in (429, 503):
            answer["headers"] = _RETRY_AFTER
        return answer

    def _content(self, kind: Any) -> Schema:
        if not isinstance(kind, Media):
            return {"application/json": {"schema": self._schemas[kind]}}
        return {name: {"schema": one if isinstance(one, dict) else self._schemas[one]} for name, one in kind.kinds.items()}

    def _parameter(self, endpoint: Endpoint, parameter: Parameter) -> Schema:
        schema = dict(_properties(endpoint.parameters)[parameter.name])
        about = schema.pop("description", "")
        return {
            "name": parameter.name, "in": parameter.place, "required": parameter.place == "path" or parameter.field.required,
            "schema": schema, **({"description": about} if about else {}),
        }  # fmt: skip


def _types_of(endpoint: Endpoint) -> Iterator[Any]:
    """Types that need a schema: of the body and the answers."""
    for one in (endpoint.body, *endpoint.answers.values()):
        if isinstance(one, Media):
            yield from (kind for kind in one.kinds.values() if not isinstance(kind, dict))
        elif one is not None:
            yield one


@cache
def _properties(struct: type[Struct]) -> Schema:
    """The schemas of a flat Struct's fields."""
    _, components = msgspec.json.schema_components([struct], ref_template=_REF)
    properties: Schema = components[struct.__name__]["properties"]
    return properties
