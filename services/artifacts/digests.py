"""A content's sha256: of a file, and as HTTP says it, `Repr-Digest: sha-256=:…:` (RFC 9530) and, easier by hand, `X-Content-SHA256: <hex>`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

HEX_HEADER = "X-Content-SHA256"
_HEX = re.compile(r"[0-9a-f]{64}")
_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):", re.IGNORECASE)


class BadDigest(ValueError):
    """A header that says no sha256, or two that say different ones."""


def file_sha256(file: Path) -> str:
    """Hex. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def declared_sha256(headers: Mapping[str, str], *, is_whole: bool = True) -> str:
    """What the sender says the content's sha256 is, hex; "" where it says nothing of that. Raises BadDigest.

    `Content-Digest` is of this message's body, so it counts only where that is the whole content.
    """
    found = {}
    for name in ("Repr-Digest", *(("Content-Digest",) if is_whole else ()), "Digest"):
        if name in headers and (sha256 := _of_field(name, headers[name])):
            found[name] = sha256
    if plain := headers.get(HEX_HEADER, "").strip().lower():
        if not _HEX.fullmatch(plain):
            raise BadDigest(f"{HEX_HEADER} takes 64 hexadecimal digits")
        found[HEX_HEADER] = plain
    if len(set(found.values())) > 1:
        raise BadDigest(f"{' and '.join(found)} say different sums")
    return next(iter(found.values()), "")


def repr_digest(sha256: str) -> str:
    """The value of `Repr-Digest`."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _of_field(name: str, value: str) -> str:
    if name == "Digest":  # RFC 3230, its older form: no colons
        kind, _, text = value.partition("=")
        if kind.strip().lower() != "sha-256":
            return ""
    elif (match := _SHA256.search(value)) is not None:
        text = match[1]
    else:
        return ""
    try:
        digest = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise BadDigest(f"{name} is no base64: {error}") from error
    if len(digest) != 32:
        raise BadDigest(f"{name} does not hold 32 bytes")
    return digest.hex()
