"""What a setting's text may be: one kind per sort of value, each with the words that tell a person what is accepted."""

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from msgspec import Struct

_SIZE = re.compile(r"(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<unit>[KMGT]i?B?|B)?", re.IGNORECASE)
_DURATION = re.compile(r"(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"(\*|[\w*-]([\w*.-]*[\w*-])?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STORE = re.compile(r"(s3|gcs|gs|abfss|abfs|az|file|local)://[^\s@?#]+")
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Kind(Struct, frozen=True):
    """`parse` turns the text into the value and raises ValueError where `accepts` does not describe it."""

    accepts: str
    parse: Callable[[str], Any]


def _size_bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    unit = (match["unit"] or "B").upper().removesuffix("B")
    factor = (1024 if unit.endswith("I") else 1000) ** ("KMGT".index(unit[0]) + 1) if unit else 1
    return int(float(match["number"]) * factor) if "." in match["number"] else int(match["number"]) * factor


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match["number"]) * _DURATION_UNITS[match["unit"] or "s"]


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(text)
    return _BOOLEANS[text.lower()]


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError(text)
        return text

    return parse


def _items(item: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    return lambda text: tuple(item(part.strip()) for part in text.split(",") if part.strip())


def _without_topic_prefix(text: str) -> str:
    return _matching(_WORD)(text.removeprefix("tasks.").replace("-", "_"))


def _without_scheme(text: str) -> str:
    if "://" in text:
        raise ValueError(text)
    return text


def _host(text: str) -> str:
    """A name, `*.name` or a network. A URL, a port or a mistyped network would match nothing, and nobody would be told why."""
    if re.fullmatch(r"[0-9./]+", text) or ":" in text:
        ip_network(text, strict=False)
        return text
    return _matching(_HOST)(text)


def whole_number(least: int, most: int = 10**12) -> Kind:
    """An int; underscores may group the digits (5_242_880)."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(text)
        return number

    limit = f"from {least:_} to {most:_}" if most < 10**12 else f"of {least:_} or more"
    return Kind(f"a whole number {limit}", parse)


def decimal(least: float) -> Kind:
    def parse(text: str) -> float:
        number = float(text)
        if not least <= number < float("inf"):
            raise ValueError(text)
        return number

    return Kind(f"a number of {least:g} or more", parse)


def seconds(least: float) -> Kind:
    def parse(text: str) -> float:
        number = _seconds(text)
        if number < least:
            raise ValueError(text)
        return number

    return Kind(f"seconds, at least {least:g} (30, 0.5, 500ms, 2m, 1h)", parse)


def choice(*names: str, also: dict[str, str] | None = None) -> Kind:
    """One of `names`, in any case, with _ or -; `also` maps further spellings."""
    known = {name.lower().replace("_", "-"): name for name in names} | (also or {})

    def parse(text: str) -> str:
        try:
            return known[text.lower().replace("_", "-")]
        except KeyError:
            raise ValueError(text) from None

    return Kind("one of " + ", ".join(names), parse)


def url(*schemes: str) -> Kind:
    def parse(text: str) -> str:
        if not any(text.startswith(f"{scheme}://") and len(text) > len(scheme) + 3 for scheme in schemes):
            raise ValueError(text)
        return text.rstrip("/") if schemes == ("http", "https") else text

    return Kind("a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes), parse)


TEXT = Kind("text", str)
FOLDER = Kind("a folder", str)
LOCAL_FOLDER = Kind("a folder on this machine's disk (for object storage set RESULTS_MIRROR)", _without_scheme)
STORE = Kind("a URL such as s3://bucket/folder, gs://bucket/folder, abfs://box/folder or file:///folder, without a key in it", _matching(_STORE))
FILE = Kind("a file, a folder that ends in /, or off", str)
BOOLEAN = Kind("1, true, yes, on or 0, false, no, off", _boolean)
SIZE = Kind("a size in bytes (5_242_880, 512MiB, 1Gi, 2GB)", _size_bytes)
PORT = whole_number(1, 65535)
WORD = Kind("up to 64 letters, digits, dots, dashes, underscores", _matching(_WORD))
WORDS = Kind("such words, separated by commas (letters, digits, dots, dashes, underscores)", _items(_matching(_WORD)))
NAMES = Kind("names of environment variables, separated by commas", _items(_matching(_NAME)))
HOSTS = Kind("hosts, *.domains or networks, separated by commas", _items(_host))
FOLDERS = Kind("folders, separated by commas", _items(str))
TASK_TYPES = Kind("task types, separated by commas (inference,sft or tasks.inference)", _items(_without_topic_prefix))
