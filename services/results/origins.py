"""What a manifest says of a result, gathered from the log: declared artifacts and seed of the spec, worker and version of the attempt."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from mloc.core.language.data_spec import JsonlExport, Postprocess

_WORTH_READING = (b'"output"', b'"seed"', b'"jsonl_export"')


class Wishes(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a task's spec says about its result."""

    declared: tuple[str, ...] = ()
    destination: str = ""
    seed: int | None = None
    export: JsonlExport | None = None  # of a sharded task: done when its shards are merged


class _Destination(Struct, frozen=True):
    type: str = "local"
    path: str | None = None


class _Output(Struct, frozen=True):
    destination: _Destination | None = None
    artifacts: tuple[str, ...] = ()


class _Spec(Struct):
    output: _Output = _Output()
    inference: dict[str, Any] = {}
    training: dict[str, Any] = {}
    postprocess: Postprocess = Postprocess()


_decode_spec = msgspec.json.Decoder(_Spec).decode
NONE = Wishes()


def mentions_result(spec: Raw | bytes) -> bool:
    """Whether the spec may say anything about its result; cheap, because most say nothing."""
    text = bytes(spec)
    return any(word in text for word in _WORTH_READING)


def wishes_of(spec: Raw | bytes) -> Wishes:
    """Read from the spec's JSON."""
    if not mentions_result(spec):
        return NONE
    try:
        read = _decode_spec(bytes(spec))
    except msgspec.MsgspecError:  # a reference that is resolved on the worker stands where a value will be
        return NONE
    destination = read.output.destination
    path = destination.path if destination is not None and destination.type == "local" and destination.path else ""
    seed = next((seed for section in (read.training, read.inference) if isinstance(seed := section.get("seed"), int)), None)
    return Wishes(read.output.artifacts, path, seed, read.postprocess.jsonl_export)
