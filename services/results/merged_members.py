"""What shards say beside their items, as one: what all agree on as it is, metrics over all rows, one file of vectors, the one index.

What is left, on which they differ, stays by shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from mloc.core.measured import all_together
from mloc.services.results.vector_parts import join_vectors

Members = dict[str, Any]  # decoded


class Said(Struct, frozen=True):
    """Of one shard: its folder, its number of items, its other members as JSON."""

    folder: Path
    items: int
    members: Mapping[str, bytes]


def merged_members(shards: Sequence[Said], folder: Path) -> dict[str, Any]:
    """Members of the whole, whose files are in `folder`; `shards` is one of them where something differs. Raises OSError."""
    names = dict.fromkeys(name for shard in shards for name in shard.members)
    whole: dict[str, Any] = {}
    for name in names:
        found = [shard.members.get(name) for shard in shards]
        rule = _RULES.get(name)
        if rule is not None and (one := rule(shards, _decoded(found), folder)) is not None:
            whole[name] = one
        elif (first := found[0]) is not None and all(one == first for one in found):
            whole[name] = Raw(first)
    differing = [{name: Raw(value) for name, value in shard.members.items() if name not in whole} for shard in shards]
    return {**whole, "shards": differing} if any(differing) else whole


def _decoded(found: Sequence[bytes | None]) -> list[Members]:
    """As mappings; none where one is something else, or not there."""
    values = [None if one is None else msgspec.json.decode(one) for one in found]
    read = [one for one in values if isinstance(one, dict)]
    return read if len(read) == len(found) else []


def _metrics(shards: Sequence[Said], found: list[Members], folder: Path) -> Any:
    """An evaluation's: {value, stderr, n} by name. The part with more rows weighs more."""
    try:
        return all_together([(metrics, shard.items) for shard, metrics in zip(shards, found, strict=bool(found))]) or None
    except (msgspec.ValidationError, ValueError):
        return None  # of another kind: how fast a shard was says nothing of all


def _index(shards: Sequence[Said], found: list[Members], folder: Path) -> Any:
    """Each shard looked up in the same documents: the first one's index is as good as any."""
    if not found or not found[0].get("key") or any(one.get("key") != found[0]["key"] for one in found):
        return None
    return {**found[0], "embedded": sum(int(one.get("embedded", 0)) for one in found)}


def _embeddings(shards: Sequence[Said], found: list[Members], folder: Path) -> Any:
    """One file with the vectors of all items, in their order."""
    names = {one.get("file") for one in found}
    name = found[0].get("file") if found else None
    if len(names) != 1 or not isinstance(name, str):
        return None
    file = folder / name
    rows, dimension = join_vectors([shard.folder / name for shard in shards], file)
    return {**found[0], "path": str(file.resolve()), "rows": rows, "dimension": dimension}


_RULES = {"metrics": _metrics, "index": _index, "embeddings": _embeddings}
