"""Holds an answer of the API against what openapi.json says of it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jsonschema
import msgspec
from aiohttp import ClientResponse

from mloc.services.intake.http.endpoints import ENDPOINTS
from mloc.services.intake.http.openapi import openapi_document


@cache
def document() -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(openapi_document(ENDPOINTS)))


async def checked(response: ClientResponse) -> ClientResponse:
    """The response, after its status, content type and JSON were found in the document. A path or method that is not there says so."""
    problem = mismatch(response.method, response.url.path, response.status, response.content_type, await response.read())
    assert not problem, f"{response.method} {response.url}: {problem}"
    return response


def mismatch(method: str, path: str, status: int, content_type: str, body: bytes) -> str:
    """How an answer differs from the document; "" where it does not."""
    item = _path_item(path)
    operation = item.get(method.lower().replace("head", "get")) if item else None
    if operation is None:
        return _fault({"$ref": "#/components/schemas/ErrorAnswer"}, body) if status in (401, 404, 405) else f"{status} for what is not there"
    answer = operation["responses"].get(str(status))
    if answer is None:
        return f"{status} is not one of {', '.join(operation['responses'])}"
    content = answer["content"].get(content_type)
    if content is None:
        return "" if "*/*" in answer["content"] else f"{content_type} is not one of {', '.join(answer['content'])}"
    return _fault(content["schema"], body) if content_type == "application/json" and method != "HEAD" else ""


def operations() -> list[tuple[str, str]]:
    """(method, path) of all that the document knows."""
    return [(method.upper(), path) for path, item in document()["paths"].items() for method in item]


def _path_item(path: str) -> dict[str, Any] | None:
    return next((item for pattern, item in _patterns() if pattern.fullmatch(path)), None)


@cache
def _patterns() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Plain paths first, as the router has it."""
    ordered = sorted(document()["paths"].items(), key=lambda one: ("{name}" in one[0], one[0].count("{")))
    return [(re.compile(re.sub(r"\\\{(\w+)\\\}", lambda m: ".+" if m[1] == "name" else "[^/]+", re.escape(path))), item) for path, item in ordered]


def _fault(schema: dict[str, Any], body: bytes) -> str:
    whole = schema | {"components": document()["components"]}
    validator = jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())
    error = jsonschema.exceptions.best_match(validator.iter_errors(msgspec.json.decode(body)))
    return f"{error.json_path}: {error.message}"[:600] if error else ""
