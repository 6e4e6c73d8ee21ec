"""What a plain YAML scalar stands for, after YAML 1.2's core schema: `on`, `yes`, `007` and `12:30` are text, `1e-4` is a number."""

from __future__ import annotations

import re
from typing import Any

_UNKNOWN: Any = object()
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER_STARTS = frozenset("0123456789+-.")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_RADIX = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_EXPONENT = r"[eE][-+]?[0-9]{1,3}"
_FLOAT = re.compile(rf"[-+]?(?:(?:\.[0-9]{{1,40}}|(?:0|[1-9][0-9]{{0,40}})\.[0-9]{{0,40}})(?:{_EXPONENT})?|(?:0|[1-9][0-9]{{0,40}}){_EXPONENT})")
SWITCHES = {"yes": True, "on": True, "true": True, "y": True, "no": False, "off": False, "false": False, "n": False}


def scalar(text: str) -> Any:
    """Null, true or false, a finite number that JSON can hold, else the text itself."""
    value = _WORDS.get(text, _UNKNOWN)
    if value is not _UNKNOWN:
        return value
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INT.fullmatch(text):
        number = int(text)
        return number if -(1 << 63) <= number < 1 << 63 else text
    if _FLOAT.fullmatch(text):
        real = float(text)
        return real if abs(real) < 1e308 else text
    return int(text, 0) if _RADIX.fullmatch(text) else text


def switch(text: str) -> bool | None:
    """The switch that a text stands for where one is expected (`yes`, `on`, …), else None."""
    return SWITCHES.get(text.lower())


def number(text: str) -> int | float | None:
    """The number that a text stands for where one is expected (`"8"`, `5_000`, `007`), else None."""
    bare = text.strip().replace("_", "") if text[:1] != "_" and text[-1:] != "_" else ""
    sign = bare[0] if bare[:1] in ("-", "+") else ""
    if bare.isascii() and bare[len(sign) :].isdigit():
        bare = sign + (bare[len(sign) :].lstrip("0") or "0")
    value = scalar(bare) if bare else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
