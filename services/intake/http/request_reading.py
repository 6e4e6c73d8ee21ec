"""What a request asks, as the Structs of its endpoint, or everything that is wrong with it: path, found, accepted, the nearest name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct, inspect

from mloc.core.language.accepted import accepted
from mloc.core.language.errors import Problem, did_you_mean, shown
from mloc.core.language.yaml_scalars import SWITCHES
from mloc.services.intake.http.endpoint import Endpoint, Media, Parameter, bare, fields_of, parameters_of
from mloc.services.intake.http.request_body import whole_body
from mloc.services.intake.http.responses import ApiError, many_problems

_SWITCHES = {**SWITCHES, "1": True, "0": False, "": True}  # `?dry_run` alone asks for it


def read_parameters(endpoint: Endpoint, request: web.Request) -> Any:
    """Raises ApiError 400 with all that is wrong."""
    declared = parameters_of(endpoint.parameters, endpoint.path)
    given: dict[str, Any] = {}
    for parameter in declared:
        value = _given(parameter, request)
        if value is not None:
            given[parameter.name] = value
    known = {parameter.name for parameter in declared if parameter.place == "query"}
    problems = [_unknown(name, known, "parameter") for name in dict.fromkeys(request.query) if name not in known]
    problems += [problem for parameter in declared for problem in _unusable(parameter, request)]
    return _converted(given, endpoint.parameters, problems, 400, "bad_parameter", strict=False)


async def read_body(endpoint: Endpoint, request: web.Request, within_sec: float) -> Any:
    """None where the endpoint takes no body or reads it by itself. Raises ApiError 400 for what is no JSON, 422 for what is not the Struct."""
    if endpoint.body is None or isinstance(endpoint.body, Media):
        return None
    body = await whole_body(request, within_sec)
    try:
        value = msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(422, "bad_value", f"the body must be a JSON object, not {shown(value)}")
    known = {field.encode_name for field in fields_of(endpoint.body)}
    problems = [_unknown(name, known, "key") for name in value if name not in known]
    return _converted({name: value[name] for name in value if name in known}, endpoint.body, problems, 422, "bad_value", strict=True)


def _unusable(parameter: Parameter, request: web.Request) -> Iterator[Problem]:
    """What no value can be taken from: bytes that are no text, one place with two values."""
    if parameter.place == "header" and not _is_text(request.headers.get(parameter.name, "")):
        yield Problem("is not UTF-8 text", path=parameter.name)
    if parameter.place == "query" and not _takes_many(parameter) and len(values := request.query.getall(parameter.name, [])) > 1:
        yield Problem("is given more than once", path=parameter.name, found=", ".join(map(shown, values[:3])), accepted="one value")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _takes_many(parameter: Parameter) -> bool:
    return isinstance(bare(parameter.field.type), inspect.VarTupleType | inspect.ListType)


def _given(parameter: Parameter, request: web.Request) -> Any:
    """The texts of a parameter; None where it is not given. An empty one counts as not given, but for a switch."""
    kind = bare(parameter.field.type)
    match parameter.place:
        case "path":
            return request.match_info[parameter.name]
        case "header":
            value = request.headers.get(parameter.name, "")
            return value if value and _is_text(value) else None
        case _ if _takes_many(parameter):
            return request.query.getall(parameter.name, None)
        case _:
            text = request.query.get(parameter.name)
            if isinstance(kind, inspect.BoolType):
                return None if text is None else _SWITCHES.get(text.lower(), text)
            return text or None


def _converted(given: Mapping[str, Any], struct: type[Struct], problems: list[Problem], status: int, code: str, *, strict: bool) -> Any:
    """The Struct; msgspec decides, and only where it refuses is every field looked at."""
    if not problems:
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(given, struct, strict=strict)
    for field in fields_of(struct):
        if field.encode_name in given:
            problems += _problems(given[field.encode_name], field, struct, strict)
        elif field.required:
            problems.append(Problem("is missing", path=field.encode_name, accepted=accepted(field.type)))
    raise many_problems(status, code, problems)


def _problems(value: Any, field: inspect.Field, struct: type[Struct], strict: bool) -> Iterator[Problem]:
    """What is wrong with one value, by msgspec's own check of its type."""
    try:
        msgspec.convert(value, _annotation(struct, field.name), strict=strict)
    except msgspec.ValidationError as error:
        kind = bare(field.type)
        hint = did_you_mean(value, [str(one) for one in kind.values]) if isinstance(kind, inspect.LiteralType) and isinstance(value, str) else ""
        takes = accepted(field.type)
        if takes == "text" and isinstance(value, str):  # its length: msgspec says how long; its pattern: an example says more
            takes = _example_of(field.type) or str(error).partition(" - at ")[0].removeprefix("Expected ").replace("`", "")
        yield Problem("has the wrong value", path=field.encode_name, found=shown(value), accepted=takes, hint=hint)


def _example_of(kind: inspect.Type) -> str:
    examples = (kind.extra_json_schema or {}).get("examples", []) if isinstance(kind, inspect.Metadata) else []
    return f"such as {examples[0]}" if examples else ""


def _annotation(struct: type[Struct], name: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(struct) if field.name == name)


def _unknown(name: str, known: set[str], what: str) -> Problem:
    return Problem(f"there is no {what} {shown(name)}", path=name, accepted=", ".join(sorted(known)) or "none", hint=did_you_mean(name, known))
