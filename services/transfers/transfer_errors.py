"""The one error of everything that is fetched or delivered, and how a URL is shown to people: never with what may be a secret."""

from __future__ import annotations

from urllib.parse import urlsplit


class TransferError(Exception):
    """What could not be brought here or taken there, and what to do. `retryable`: trying again later, or elsewhere, can help.

    `is_missing`: the other side is there and has no such thing.
    """

    def __init__(self, message: str, *, retryable: bool = False, is_missing: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.is_missing = is_missing


def shown_url(url: str) -> str:
    """Without user, password, query and fragment: signed URLs carry their secret there."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")


def shown_size(size_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
