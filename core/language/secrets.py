"""Literal secrets: taken out of a spec before it is logged, and hidden where a spec is shown."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from mloc.core.language.data_spec import ListData, MessagesData, PreferencesData
from mloc.core.language.errors import Path, dotted
from mloc.core.language.references import is_content, is_reference
from mloc.core.language.spec import TaskSpec, encode_spec

MASK = "***"
REMEMBERED_BYTES = 1024
_CALLED = (("notify", "url"), ("output", "destination", "url"))
_ONLY_ROWS = (ListData, MessagesData, PreferencesData)

_SECRET_KEY = re.compile(
    r"(?i)(?:^|[_.-])(?:authorization|(?:access|api|auth|hf|hub|bearer|session|refresh|use_auth)?[_-]?token|(?:api|access|private|secret|auth)[_-]?key"
    r"|apikey|secret|client[_-]?secret|password|passwd|pwd|credentials?|cookie|x-auth)$"
)
_NO_SECRET_KEY = re.compile(r"(?i)^(?:pad|eos|bos|unk|sep|cls|mask|image|video|audio|stop|start|end|prefix|suffix|decoder_start)_token$")
_SECRET_VALUE = re.compile(r"(?:Bearer|Basic|Token) +(?!\$\{)\S{4,}|(?:hf|sk|ghp|github_pat|glpat|xox[abp]|AKIA)[_-]?[A-Za-z0-9_-]{16,}")
_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s:]*:(?!\$\{)[^/@\s]+@\S+", re.IGNORECASE)
_SECRET_IN_URL = re.compile(
    r"https?://(?:[^?]*[?&](?:[^?]*&)?[^=&]*(?:token|key|secret|sig|signature|passw|credential)[^=&]*=(?!\$\{)[^&]+"
    r"|hooks\.slack\.com/|discord(?:app)?\.com/api/webhooks/|[^/]+\.webhook\.office\.com/).*", re.IGNORECASE,
)  # of who is called back: the address alone lets one in
_TRACES = (b"authorization", b"token", b"key", b"secret", b"passw", b"pwd", b"credential", b"cookie", b"x-auth", b"bearer ", b"basic ", b"://")
_PREFIXES = (rb"hf", rb"sk", rb"ghp", rb"github_pat", rb"glpat", rb"xox[abp]", rb"AKIA")
_TOKEN_TRACES = tuple(re.compile(prefix + rb"[A-Za-z0-9_-]{16}").search for prefix in _PREFIXES)  # with a literal start each is 20 times quicker


def may_hold_secrets(spec: TaskSpec) -> bool:
    """Whether a look at the spec's JSON, without rows, leaves it open that `move_secrets` finds something: most specs are spared its walk."""
    encoded = encode_spec(replace(spec, data=None) if isinstance(spec.data, _ONLY_ROWS) else spec)
    return _has_trace_remembered(encoded) if len(encoded) <= REMEMBERED_BYTES else _has_trace(encoded)


def _has_trace(encoded: bytes) -> bool:
    lower = encoded.lower()
    return any(trace in lower for trace in _TRACES) or any(search(encoded) for search in _TOKEN_TRACES)


_has_trace_remembered = lru_cache(maxsize=256)(_has_trace)  # without their rows many specs are the same


def move_secrets(spec: TaskSpec) -> tuple[TaskSpec, dict[str, str]]:
    """The spec with `${secret.<name>}` in the place of each literal secret, and the literals by name. Prompts and rows are left alone."""
    found: dict[str, str] = {}
    plain = _moved(msgspec.to_builtins(spec), (), found)
    return (msgspec.convert(plain, TaskSpec), found) if found else (spec, {})


def masked(value: Any) -> Any:
    """A plain value (or a Struct) for showing: every secret and every reference to one as `***`."""
    return _masked(msgspec.to_builtins(value), ())


def _moved(value: Any, path: Path, found: dict[str, str]) -> Any:
    match value:
        case dict():
            return {name: _moved(item, (*path, name), found) for name, item in value.items()}
        case list() | tuple():
            return [_moved(item, (*path, at), found) for at, item in enumerate(value)]
        case str() if _is_secret(value, path):
            name = re.sub(r"[^A-Za-z0-9_.-]", ".", dotted(path))
            found[name] = value
            return f"${{secret.{name}}}"
        case _:
            return value


def _masked(value: Any, path: Path) -> Any:
    match value:
        case dict():
            return {name: _masked(item, (*path, name)) for name, item in value.items()}
        case list() | tuple():
            return [_masked(item, (*path, at)) for at, item in enumerate(value)]
        case str() if _is_secret(value, path) or "${secret." in value:
            return MASK
        case _:
            return value


def _is_secret(value: str, path: Path) -> bool:
    """A literal under a key that names a secret, a value that looks like one, or a URL with a password."""
    start = path[1:] if path[:1] == ("spec",) else path
    if not value or is_content(start) or is_reference(value) or "${env." in value or "${secret." in value:
        return False
    if start in _CALLED and _SECRET_IN_URL.fullmatch(value):
        return True
    key = next((step for step in reversed(path) if isinstance(step, str)), "")
    if _SECRET_KEY.search(key) and not _NO_SECRET_KEY.search(key):
        return True
    return _SECRET_VALUE.fullmatch(value) is not None or _URL_PASSWORD.fullmatch(value) is not None
