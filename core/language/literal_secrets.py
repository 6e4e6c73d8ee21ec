"""Passwords and tokens that a file writes out: they are replaced by `${secret.…}` before anything is logged, and kept apart.

A secret is known by the name of its key (in headers, settings and URLs), never looked for in prompts or rows.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mloc.core.language.errors import Path
from mloc.core.language.references import is_content

_MAYBE = re.compile(rb'(?i)(?:auth|token|key|passw|passphrase|secret|credential|cookie)[a-z_-]*"\s*:|://[^/"\s]*:[^/"\s]*@')
_SECRET_KEY = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|secret|secret_key|access_key|private_key|api_?key|credentials?|authorization|cookie)$"
    r"|^token$|(?:^|_)(?:auth|access|api|hub|hf|bearer|refresh|session|id)_token$"
)
_SECRET_HEADER = re.compile(r"auth|token|key|secret|cookie|password|credential")
_URL_PASSWORD = re.compile(r"://[^/\s@:]*:[^/\s@]+@")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


def without_secrets(encoded: bytes) -> tuple[bytes, dict[str, str]]:
    """The JSON of a spec with each literal secret replaced by a reference, and the secrets by name."""
    if not _MAYBE.search(encoded):
        return encoded, {}
    secrets: dict[str, str] = {}
    plain = _walk(msgspec.json.decode(encoded), (), secrets)
    return (msgspec.json.encode(plain), secrets) if secrets else (encoded, {})


def _walk(value: Any, path: Path, secrets: dict[str, str]) -> Any:
    if is_content(path):
        return value
    match value:
        case dict():
            return {key: _walk(item, (*path, key), secrets) for key, item in value.items()}
        case list():
            return [_walk(item, (*path, at), secrets) for at, item in enumerate(value)]
        case str() if value and "${" not in value and (_is_secret(path) or _URL_PASSWORD.search(value)):
            name = _NOT_IN_A_NAME.sub("-", ".".join(str(step) for step in path))[-150:]
            while name in secrets:
                name += "-"
            secrets[name] = value
            return f"${{secret.{name}}}"
        case _:
            return value


def _is_secret(path: Path) -> bool:
    key = str(path[-1]).lower().replace("-", "_") if path else ""
    if len(path) > 1 and path[-2] == "headers":
        return bool(_SECRET_HEADER.search(key))
    return bool(_SECRET_KEY.search(key))
