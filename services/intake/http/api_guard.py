"""Around every request of the API: who may, and one shape for all that goes wrong."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestPayloadError

from mloc.core.language.errors import LanguageError
from mloc.core.language.yaml_source import decode_text, load_documents
from mloc.services.intake.http.api_state import state_of
from mloc.services.intake.http.endpoint import Endpoint
from mloc.services.intake.http.request_body import MAX_BODY_BYTES
from mloc.services.intake.http.responses import ApiError, language_error
from mloc.services.intake.published_results import UnsafePath
from mloc.services.intake.task_query import QueryError
from mloc.services.log.event_log import BacklogFull, KeyConflict, LogUnavailable


@web.middleware
async def one_error_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as `{"ok": false, "error": {code, message, path, hint}}`."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPException as error:
        return of_http(request, error).response()
    except LanguageError as error:
        return language_error(error, 422).response()
    except (QueryError, UnsafePath) as error:
        return ApiError(400, "bad_request", str(error), path=request.path).response()
    except KeyConflict as error:
        hint = "use a new key for a new body; the same key only to repeat a request"
        return ApiError(409, "idempotency_conflict", str(error), path="Idempotency-Key", hint=hint).response()
    except BacklogFull as error:
        return ApiError(429, "backlog_full", str(error), hint="nothing was submitted; try again later").response()
    except LogUnavailable as error:
        hint = "try again; a submission with an Idempotency-Key can be repeated without harm"
        return ApiError(503, "log_unavailable", str(error), hint=hint).response()
    except RequestPayloadError as error:
        text = str(error).partition("message:")[2].strip() or "it broke off"
        return ApiError(400, "unreadable_body", f"the body cannot be read: {text}", path=request.path).response()
    except ConnectionResetError:  # the client left: nobody reads this, and aiohttp has nothing to complain of
        return web.Response()
    except Exception:
        structlog.get_logger().exception("a request failed", method=request.method, path=request.path)
        return ApiError(500, "internal_error", "this is a mistake of MLOC; the log of the API has the details", path=request.path).response()


def token_required(endpoints: Sequence[Endpoint]) -> Middleware:
    """`Authorization: Bearer …` wherever a token is set, but for the paths of endpoints that are open."""
    access = {path: endpoint.access for endpoint in endpoints for path in endpoint.paths}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        settings = state_of(request).settings
        token, asked = settings.orchestrator_token, access.get(request.path, "token")
        is_open = asked == "open" or (asked == "metrics" and not settings.metrics_require_token)
        if token and not is_open and not _shows(request, token):
            raise ApiError(401, "unauthorized", "the token is missing or wrong", path="Authorization", hint="send `Authorization: Bearer <token>`")
        return await handler(request)

    return check


@web.middleware
async def reading_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """With API_READ_ONLY nothing is written."""
    if request.method not in ("GET", "HEAD", "OPTIONS") and state_of(request).settings.api_read_only:
        hint = "ask an API that runs without API_READ_ONLY"
        raise ApiError(403, "read_only", "this API shows and changes nothing", path=request.path, hint=hint)
    return await handler(request)


def reading_error(error: LanguageError, text: str) -> ApiError:
    """400 for what is no YAML or beyond the reader's limits, 422 for YAML that is not a task."""
    try:
        load_documents(decode_text(text))
    except LanguageError:
        return language_error(error, 400)
    return language_error(error, 422)


def _shows(request: web.Request, token: str) -> bool:
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(_bytes_of(shown.strip()), _bytes_of(token))


def _bytes_of(text: str) -> bytes:
    """Of what may be no text: a header, a variable of the environment."""
    return text.encode(errors="surrogateescape")


def of_http(request: web.BaseRequest, error: web.HTTPException) -> ApiError:
    match error.status:
        case 404:
            return ApiError(404, "not_found", f"there is nothing at {request.path}", path=request.path, hint="docs/api.md lists what there is")
        case 405:
            allowed = error.headers.get("Allow", "")
            message = f"{request.method} is not for {request.path}"
            return ApiError(405, "method_not_allowed", message, path=request.path, hint=f"use {allowed}", allow=allowed)
        case 413:
            hint = "put the data into a jsonl file and name it under data.jsonl"
            return ApiError(413, "too_large", f"the body is larger than {MAX_BODY_BYTES:,} bytes", hint=hint)
        case 417:
            message = f"Expect: {request.headers.get('Expect', '')} is nothing that this API can do"
            return ApiError(417, "bad_request", message, path=request.path, hint="leave that header out, or send 100-continue")
        case status:
            return ApiError(status, "bad_request", error.reason, path=request.path)
