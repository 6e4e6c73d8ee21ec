"""What a screen shows: a state of the cluster, and where in history it is. Live or past, a screen does not care."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mloc.core.cluster import Cluster
from mloc.services.log.event_log import Heartbeat


class View(NamedTuple):
    """Hold no reference to `cluster` across an await: the live one is folded on."""

    cluster: Cluster
    ordinal: int  # events that made this state
    total: int  # events known
    now_ms: int  # the log's clock; in the past, the time of the last event
    is_past: bool
    heartbeats: Mapping[str, Heartbeat]
    archive: str = ""  # the name of a history that does not go on; "" for a live one
    trouble: str = ""
    reading: bool = False  # the log is still being read for the first time
    events_per_sec: float = 0.0
    read_only: bool = False
