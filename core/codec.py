"""Events to and from the two fields of a log entry: the plain field `type` and the JSON field `data`.

Old entries stay readable for ever: `UPCASTERS` turns the fields of a retired tag into those of its successor, step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from mloc.core.events import AnyEvent, Event

EVENT_TYPES: dict[str, type[Event]] = {cls.__struct_config__.tag: cls for cls in get_args(AnyEvent)}

# retired tag → (tag that replaces it, fields → fields)
UPCASTERS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

_encode = msgspec.json.Encoder().encode
_DECODE = {tag: msgspec.json.Decoder(cls).decode for tag, cls in EVENT_TYPES.items()}


class UnknownEvent(msgspec.Struct, frozen=True, gc=False):
    """An entry of a type or version that this program does not know. Observers skip it; a decider must stop."""

    type: str


class CodecError(Exception):
    """An entry that names a known type holds something else."""


def encode(event: Event) -> bytes:
    """The `data` field of an entry: one JSON object that also names its type."""
    return _encode(event)


def type_of(event: Event) -> str:
    """The `type` field of an entry: the event's tag."""
    return type(event).__struct_config__.tag  # type: ignore[return-value]


def decode(type_: str, data: bytes | str) -> Event | UnknownEvent:
    """The event of an entry, upcast to its present form. Raises CodecError where `data` does not fit `type_`."""
    decoder = _DECODE.get(type_)
    try:
        if decoder is not None:
            return decoder(data)
        if type_ in UPCASTERS:
            return _upcast(type_, msgspec.json.decode(data))
    except msgspec.MsgspecError as error:
        raise CodecError(f"the log holds an entry of type {type_} that does not fit it: {error}") from error
    return UnknownEvent(type_)


def _upcast(type_: str, fields: dict[str, Any]) -> Event | UnknownEvent:
    while type_ in UPCASTERS:
        type_, change = UPCASTERS[type_]
        fields = change(fields)
    if type_ not in EVENT_TYPES:
        return UnknownEvent(type_)
    return msgspec.convert({**fields, "type": type_}, EVENT_TYPES[type_])
