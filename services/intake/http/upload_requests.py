"""What an upload's request says besides its path: the headers of resumable uploads (the IETF's draft), the content's sha256, the body's form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Meta, Struct

from mloc.services.artifacts.digests import BadDigest, declared_sha256
from mloc.services.intake.http.endpoint import Media
from mloc.services.intake.http.responses import ApiError

FIELD = "file"
YES, NO = "?1", "?0"
CONTENT = Media(
    {
        "application/octet-stream": {"type": "string", "format": "binary"},
        "multipart/form-data": {"type": "object", "properties": {FIELD: {"type": "string", "format": "binary"}}, "required": [FIELD]},
    }
)
PART = Media({"application/octet-stream": {"type": "string", "format": "binary"}}, "application/partial-upload, as the draft has it, does as well")
_HEADER = {"in": "header"}
_READ_BYTES = 1 << 16


class UploadHeaders(Struct, frozen=True, kw_only=True):
    upload_complete: Annotated[
        Literal["?0", "?1"], Meta(description="?0: more follows by PATCH of the Location that is answered", extra=_HEADER)
    ] = msgspec.field(name="Upload-Complete", default="?1")  # fmt: skip
    upload_length: Annotated[int, Meta(description="Size of the whole content in bytes", ge=-1, extra=_HEADER)] = msgspec.field(
        name="Upload-Length", default=-1
    )
    repr_digest: Annotated[str, Meta(description="sha-256 of the whole content (RFC 9530), which is checked", extra=_HEADER)] = msgspec.field(
        name="Repr-Digest", default=""
    )
    sha256: Annotated[str, Meta(description="The same in hexadecimal digits", extra=_HEADER)] = msgspec.field(
        name="X-Content-SHA256", default=""
    )


class PartHeaders(Struct, frozen=True, kw_only=True):
    upload_offset: Annotated[int, Meta(description="Number of the first byte that is sent", ge=0, extra=_HEADER)] = msgspec.field(
        name="Upload-Offset"
    )
    upload_complete: Annotated[Literal["?0", "?1"], Meta(description="?0: more follows", extra=_HEADER)] = msgspec.field(
        name="Upload-Complete", default="?1"
    )


def announced_sha256(request: web.Request, *, is_whole: bool) -> str:
    """Raises ApiError 400."""
    try:
        return declared_sha256(request.headers, is_whole=is_whole and not _is_form(request))
    except BadDigest as error:
        hint = "`Repr-Digest: sha-256=:<base64>:` or `X-Content-SHA256: <hex>`"
        raise ApiError(400, "bad_digest", str(error), path="Repr-Digest", hint=hint) from error


def announced_size(request: web.Request, headers: UploadHeaders, *, is_whole: bool) -> int:
    """Bytes of the whole content; -1 where nobody says. Raises ApiError 400 where the headers contradict each other."""
    is_other = _is_form(request) or "Content-Encoding" in request.headers or not is_whole  # what is counted is not the content
    here = -1 if is_other or request.content_length is None else request.content_length
    if here >= 0 and headers.upload_length not in (-1, here):
        raise ApiError(400, "bad_parameter", f"the body has {here:,} bytes, Upload-Length says {headers.upload_length:,}", path="Upload-Length")
    return max(here, headers.upload_length)


async def content_of(request: web.Request) -> AsyncIterator[bytes]:
    """The content as it arrives: the raw body, or the form's field `file`. Raises ApiError 400 where a form has none."""
    if not _is_form(request):
        while chunk := await request.content.readany():
            yield chunk
        return
    try:
        form = await request.multipart()
        while (field := await form.next()) is not None:
            if isinstance(field, BodyPartReader) and field.name == FIELD:
                while chunk := await field.read_chunk(_READ_BYTES):
                    yield chunk
                return
    except HttpProcessingError as error:  # its message may quote all that was sent
        raise ApiError(400, "unreadable_body", "the form cannot be read: the head of one of its fields is malformed", path=request.path) from error
    except ValueError as error:
        raise ApiError(400, "unreadable_body", f"the form cannot be read: {str(error)[:200]}", path=request.path) from error
    raise ApiError(400, "no_file", f"the form has no field {FIELD!r}", path=FIELD, hint="curl -F file=@model.bin, or the raw body: curl -T model.bin")


def _is_form(request: web.Request) -> bool:
    return request.content_type == "multipart/form-data"
