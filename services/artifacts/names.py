"""Names of files that come from elsewhere: what a request or an archive may call a file, relative to a folder that it must not leave."""

from __future__ import annotations

import os

LONGEST_NAME_BYTES = 1024
LONGEST_PART_BYTES = 240  # a file system takes 255; a partial file's name is longer than its own
DEEPEST = 32
_NEVER = frozenset(chr(code) for code in range(32)) | {"\x7f", "\\"}


class UnsafeName(Exception):
    """A name that no file may have; the message says which and why."""


def safe_name(name: str, *, hidden: bool = False) -> str:
    """The name in its plain form, parts joined by `/`. Raises UnsafeName. `hidden`: parts may begin with a dot."""
    if not name or name.endswith("/"):
        raise UnsafeName(f"{name!r} names no file")
    return _checked(name, hidden)


def safe_member(name: str) -> str:
    """The plain form of an archive member's name, "" for the archive's own root. Raises UnsafeName."""
    plain = "/".join(part for part in name.rstrip("/").split("/") if part != ".") if not name.startswith("/") else name
    return _checked(plain, hidden=True) if plain else ""


def _checked(name: str, hidden: bool) -> str:
    shown = repr(name if len(name) <= 120 else f"{name[:117]}…")
    parts = name.split("/")
    if name.startswith("/"):
        raise UnsafeName(f"{shown} is an absolute path")
    if ".." in parts:
        raise UnsafeName(f"{shown} leads out of its folder")
    if not all(parts) or "." in parts:
        raise UnsafeName(f"{shown} has an empty part")
    if not _NEVER.isdisjoint(name):
        raise UnsafeName(f"{shown} has a control character or a backslash")
    if not hidden and any(part.startswith(".") for part in parts):
        raise UnsafeName(f"{shown} begins with a dot; such names are reserved")
    _check_lengths(name, parts, shown)
    return name


def _check_lengths(name: str, parts: list[str], shown: str) -> None:
    try:
        lengths = [len(os.fsencode(part)) for part in parts]
        name.encode()
    except UnicodeEncodeError as error:
        raise UnsafeName(f"{shown} is not UTF-8") from error
    if len(parts) > DEEPEST or sum(lengths) + len(parts) - 1 > LONGEST_NAME_BYTES or max(lengths) > LONGEST_PART_BYTES:
        raise UnsafeName(f"{shown} is too long: at most {LONGEST_NAME_BYTES} bytes, {LONGEST_PART_BYTES} in a part, {DEEPEST} folders deep")
