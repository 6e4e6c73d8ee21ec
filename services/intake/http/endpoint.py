"""One endpoint of the API, declared once: its route, the check of what it is given, its place in openapi.json and docs/api.md follow from it.

    class OfTask(Struct, frozen=True, kw_only=True):
        id: Annotated[str, Meta(description="Id of the task")]        # in the path, because the path has {id}; else a query parameter

    async def show_task(call: Call[OfTask, None]) -> TaskShown: …     # a Struct is sent as JSON; or any aiohttp response

    ENDPOINTS = (Endpoint("GET", "/api/v1/tasks/{id}", show_task, "One task", OfTask, answers={200: TaskShown}),)

A routes module ends with its `ENDPOINTS`; `endpoints.py` joins them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from aiohttp import web
from msgspec import Struct, inspect

from mloc.services.intake.http.api_state import ApiState

Parameters = TypeVar("Parameters")
Body = TypeVar("Body")

Access = Literal["token", "metrics", "open"]
"""Who may: holders of the token; the same only where METRICS_REQUIRE_TOKEN is set; anyone."""

_IN_PATH = re.compile(r"\{(\w+)(?::[^{}]*)?\}")


class Call(NamedTuple, Generic[Parameters, Body]):
    """What a handler gets: the request as it came, and what was asked in it, checked."""

    request: web.Request
    state: ApiState
    parameters: Parameters
    body: Body


class Media(Struct, frozen=True):
    """A body that is not the JSON of one Struct: by content type a JSON Schema, or a type that gives one. Its handler reads or writes it."""

    kinds: dict[str, Any]
    about: str = ""


def no_body(about: str) -> Media:
    """An answer of headers alone."""
    return Media({"*/*": {"type": "string", "maxLength": 0}}, about)


class NoParameters(Struct, frozen=True):
    """Of an endpoint that takes none."""


class Endpoint(Struct, frozen=True):
    """`parameters`: a Struct of texts, numbers, booleans and lists of texts. A field that the path names is in the path, one marked
    `Meta(extra={"in": "header"})` is a header, all others are in the query.

    `body`: a Struct, read from JSON (nothing at all is an empty object), or Media. `answers`: status → Struct or Media; the Struct that a
    handler returns goes out under the first status that has its type. `errors`: statuses of refusals that this endpoint alone knows.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    handler: Callable[[Call[Any, Any]], Awaitable[Any]]
    summary: str
    parameters: type[Struct] = NoParameters
    body: type[Struct] | Media | None = None
    answers: Mapping[int, Any] = {}
    errors: tuple[int, ...] = ()
    also: tuple[str, ...] = ()  # further paths of the same endpoint
    access: Access = "token"

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.also)

    def status_of(self, answer: object) -> int:
        """The status that an answer goes out under."""
        return next((status for status, kind in self.answers.items() if kind is type(answer)), next(iter(self.answers), 200))


class Parameter(NamedTuple):
    """One field of a Struct of parameters. `name` is its name in the request."""

    name: str
    place: Literal["path", "query", "header"]
    field: inspect.Field


def names_in(path: str) -> frozenset[str]:
    """Names of the parts of a path that vary."""
    return frozenset(_IN_PATH.findall(path))


def plain_path(path: str) -> str:
    """`/files/{name:.+}` as OpenAPI writes it: `/files/{name}`."""
    return _IN_PATH.sub(r"{\1}", path)


@cache
def parameters_of(struct: type[Struct], path: str) -> tuple[Parameter, ...]:
    """Where each field of a Struct of parameters is found in a request of this path."""
    in_path = names_in(path)
    return tuple(
        Parameter(field.encode_name, "path" if field.encode_name in in_path else _place(field.type), field) for field in fields_of(struct)
    )


@cache
def fields_of(struct: type[Struct]) -> tuple[inspect.Field, ...]:
    """The fields of a Struct with their types."""
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    return kind.fields


def bare(kind: inspect.Type) -> inspect.Type:
    """The type without what is said about it."""
    return bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _place(kind: inspect.Type) -> Literal["query", "header"]:
    extra = (kind.extra or {}) if isinstance(kind, inspect.Metadata) else {}
    return "header" if extra.get("in") == "header" else "query"
