"""POST and GET /api/v1/inputs: files that tasks name, brought before these are submitted. docs/api.md shows it."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from mloc.services.artifacts.store import Upload
from mloc.services.intake.http.endpoint import Call, Endpoint, Media, no_body
from mloc.services.intake.http.file_response import send_file
from mloc.services.intake.http.responses import ApiError
from mloc.services.intake.http.routes.uploads import ERRORS, STORED_OR_BEGUN
from mloc.services.intake.http.upload_answers import FileStored, announced, begin, safe_path
from mloc.services.intake.http.upload_requests import CONTENT, UploadHeaders
from mloc.services.results.folders import input_path

_FILE = Media({"*/*": {"type": "string", "format": "binary"}})
_SHA256 = Meta(description="Of the content, in hexadecimal digits", pattern="^[0-9a-f]{64}$", examples=["0123456789abcdef" * 4])
_NAME = Meta(description="What the file is called; by its ending a reader knows its format", pattern="^[^/]+$", examples=["rows.jsonl"])


class ToInput(UploadHeaders, frozen=True, kw_only=True):
    of_sha256: Annotated[str, _SHA256]
    name: Annotated[str, _NAME]


class OfInput(Struct, frozen=True, kw_only=True):
    of_sha256: Annotated[str, _SHA256]
    name: Annotated[str, _NAME]


async def post_input(call: Call[ToInput, None]) -> web.StreamResponse:
    """A file for tasks that are submitted later; the answer's `path` is what they name."""
    asked = call.parameters
    sha256, size = announced(call.request, call.state, asked)
    if sha256 not in ("", asked.of_sha256):
        raise ApiError(400, "bad_digest", f"the digest says {sha256}, the path {asked.of_sha256}", path="Repr-Digest")
    name = safe_path(asked.name)
    upload = Upload("", 0, input_path(asked.of_sha256, name), name, asked.of_sha256, size)
    return await begin(call.request, call.state, upload, asked)


async def show_input(call: Call[OfInput, None]) -> web.StreamResponse:
    """For workers that do not see the results folder."""
    asked = call.parameters
    path = call.state.results_dir / input_path(asked.of_sha256, safe_path(asked.name))
    return await send_file(call.request, path, asked.of_sha256)


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/inputs/{of_sha256}/{name}", post_input, "Upload a file that tasks will name; it goes if none ever does", ToInput,
        CONTENT, {201: STORED_OR_BEGUN, 200: FileStored}, ERRORS,
    ),
    Endpoint(
        "GET", "/api/v1/inputs/{of_sha256}/{name}", show_input, "A file that was uploaded for tasks, with ranges", OfInput,
        answers={200: _FILE, 206: _FILE, 304: no_body("It is what If-None-Match names")}, errors=(412, 416),
    ),
)  # fmt: skip
