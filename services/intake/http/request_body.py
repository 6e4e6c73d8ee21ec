"""From the body of a POST to the text of a task file: YAML, JSON of a task, `{"yaml": …}`, a JSON string, YAML under a JSON type."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from aiohttp import web

from mloc.services.intake.http.responses import ApiError

MAX_BODY_BYTES = 1 << 20
_UNLIKE_YAML = re.compile(r"\\[u/]|\t")  # escapes and blanks that JSON and YAML read differently
_SECOND_KEY = re.compile(r".(?:kind|metadata|spec) *:")


async def whole_body(request: web.Request, within_sec: float) -> bytes:
    """The body; a client that sends it drop by drop is let go. Raises ApiError 408."""
    try:
        async with asyncio.timeout(within_sec):
            return await request.read()
    except TimeoutError:
        hint = "send it faster, or as a smaller file; API_BODY_SEC is the bound"
        raise ApiError(408, "slow_body", f"the body did not arrive within {within_sec:g} s", hint=hint) from None


def task_text(body: bytes, content_type: str) -> str:
    """The YAML (or JSON, which is YAML) to read. Raises ApiError."""
    text = _decoded(body)
    if not text.strip():
        raise ApiError(400, "empty_body", "the body is empty", hint="send a task file: curl --data-binary @task.yaml")
    if content_type.endswith("json"):
        text = _of_json(text)
    if has_lost_line_breaks(text):
        raise ApiError(
            400, "lost_line_breaks", "the YAML has lost its line breaks on the way", hint="with curl use --data-binary @task.yaml, not -d or --data"
        )
    return text


def has_lost_line_breaks(text: str) -> bool:
    """Whether this is a task file in block style, all in one line."""
    stripped = text.strip()
    return "\n" not in stripped and "\r" not in stripped and stripped.startswith("apiVersion:") and bool(_SECOND_KEY.search(stripped))


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ApiError(400, "not_utf8", f"the body is not UTF-8 text (byte {error.start})") from error


def _of_json(text: str) -> str:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text  # plain YAML under application/json, or broken: the reader says where
    match value:
        case str():
            return value
        case {"yaml": str(inner)} if "spec" not in value:
            return inner
        case list() if value and all(isinstance(one, dict) for one in value):
            return "\n---\n".join(_as_yaml(one) for one in value)
        case _:
            return _as_yaml(value) if _UNLIKE_YAML.search(text) else text


def _as_yaml(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
