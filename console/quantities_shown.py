"""Durations, sizes and numbers as short text."""

from __future__ import annotations

from datetime import datetime


def duration(ms: float) -> str:
    """At most five characters: 0.2s, 45s, 12m, 3.5h, 12d."""
    seconds = max(0.0, ms / 1000)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f}m"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.3g}h"
    return f"{seconds / 86400:.0f}d"


def size(count: float) -> str:
    """Bytes with a binary unit: 512B, 1.5G."""
    for unit in ("B", "K", "M", "G"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1024
    return f"{count:.3g}T"


def clock(ms: int) -> str:
    """Time of day to the millisecond."""
    return datetime.fromtimestamp(ms / 1000).strftime("%H:%M:%S.%f")[:-3] if ms else "-"


def day_and_clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if ms else "-"


def task_name(id: str, parent: str, width: int) -> str:
    """A task's id in at most `width` characters; of a stage or shard the end stays, for it says which one it is."""
    if len(id) <= width or not parent:
        return id
    end = id[max(0, len(parent) - 4) :]
    return f"{id[: width - len(end) - 1]}…{end}" if len(end) + 6 <= width else f"…{id[len(id) - width + 1 :]}"


def middle_cut(text: str, width: int) -> str:
    """At most `width` characters: the beginning and the end."""
    end = width * 3 // 5
    return text if len(text) <= width else f"{text[: width - end - 1]}…{text[-end:]}"


def fitted(text: str, width: int) -> str:
    """Exactly `width` characters; what is cut off ends in an ellipsis."""
    flat = text.replace("\n", " ").replace("\t", " ")
    return flat.ljust(width) if len(flat) <= width else flat[: max(0, width - 1)] + "…"[:width]
