"""The one shape of every answer and every error of the API."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from mloc.core.language.errors import LanguageError

RETRY_AFTER_SEC = 5


class ApiError(Exception):
    """A request that is answered with an error: `code` for programs, `message` and `hint` for people, `path` of what is wrong."""

    def __init__(
        self, status: int, code: str, message: str, *, path: str = "", hint: str = "", details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"code": code, "message": message, "path": path, "hint": hint}
        if details:
            self.body["details"] = details

    def response(self) -> web.Response:
        headers = {"Retry-After": str(RETRY_AFTER_SEC)} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return json_response({"ok": False, "error": self.body}, self.status, headers)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers)


def not_found(what: str, id: str) -> ApiError:
    return ApiError(404, "not_found", f"there is no {what} {id}", path=id)


def language_error(error: LanguageError, status: int) -> ApiError:
    """All problems of a file, the first one in front. 400 for text that is no YAML, 422 for a file that breaks the schema."""
    first = error.problems[0]
    more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
    code = "invalid_yaml" if status == 400 else "invalid_task"
    details = [msgspec.to_builtins(problem) for problem in error.problems]
    return ApiError(status, code, str(first) + more, path=first.path, hint=first.hint, details=details)
