"""The one shape of every answer and every error of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mloc.core.language.errors import LanguageError, Problem
from mloc.core.task import Task

RETRY_AFTER_SEC = 5


class ErrorBody(Struct, frozen=True):
    """`code` is for programs, `message` and `hint` for people; `path` is what is wrong: a field, a parameter, a header, an id."""

    code: str
    message: str
    path: str
    hint: str
    details: tuple[Problem, ...] | UnsetType = UNSET


class ErrorAnswer(Struct, frozen=True):
    """What every refused request is answered with."""

    ok: bool
    error: ErrorBody


class ApiError(Exception):
    """A request that is answered with an error. `retry_after_sec` goes out with 429 and 503, `allow` (methods) with 405."""

    def __init__(
        self, status: int, code: str, message: str, *, path: str = "", hint: str = "", details: Sequence[Problem] = (),
        retry_after_sec: int = RETRY_AFTER_SEC, allow: str = "", headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(code, message, path, hint, tuple(details) or UNSET)
        self.retry_after_sec = retry_after_sec
        self.allow = allow
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        headers = {**self.headers, **({"Retry-After": str(self.retry_after_sec)} if self.status in (429, 503) else {})}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.allow:
            headers["Allow"] = self.allow
        return json_response(ErrorAnswer(False, self.body), self.status, headers)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers)


def not_found(what: str, id: str) -> ApiError:
    return ApiError(404, "not_found", f"there is no {what} {id}", path=id)


def result_expired(task: Task) -> ApiError:
    return ApiError(410, "result_expired", f"the result of {task.id} was kept for {task.ttl_ms / 1000:g} s after its end", path=task.id)


def many_problems(status: int, code: str, problems: Sequence[Problem]) -> ApiError:
    """The first problem in front, all of them as details."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ApiError(status, code, str(problems[0]) + more, path=problems[0].path, hint=problems[0].hint, details=problems)


def language_error(error: LanguageError, status: int) -> ApiError:
    """400 for text that is no YAML, 422 for a file that breaks the schema."""
    return many_problems(status, "invalid_yaml" if status == 400 else "invalid_task", error.problems)
