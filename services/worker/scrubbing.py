"""Resolved secrets never leave the worker: they are hidden in whatever it reports."""

from __future__ import annotations

import json
from collections.abc import Iterable

HIDDEN = "***"
SHORTEST = 4  # shorter values would hide ordinary words


def secrets_worth_hiding(values: Iterable[str]) -> tuple[str, ...]:
    """The values to look for, the longest first, so that none hides a part of another."""
    return tuple(sorted({value for value in values if len(value) >= SHORTEST}, key=len, reverse=True))


def scrub_text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def scrub_bytes(content: bytes, secrets: tuple[str, ...]) -> bytes:
    """The same in JSON, where a value may stand escaped in two ways."""
    for secret in secrets:
        for ascii_only in (False, True):
            content = content.replace(json.dumps(secret, ensure_ascii=ascii_only)[1:-1].encode(), HIDDEN.encode())
    return content
