"""How each state of a task and a worker is shown: a glyph, a word and a colour, never the colour alone; and which tasks come first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from textual.theme import Theme

from mloc.core.cluster import Cluster
from mloc.core.worker import Worker

# Okabe and Ito's palette, which people with any colour vision tell apart
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
DIM = "#8a9199"
BAD = "#FF7F3F"  # vermillion, lighter, so that it can be read on black

THEME = Theme(
    name="okabe-ito", primary=SKY, secondary=BLUE, accent=ORANGE, warning=ORANGE, error=BAD, success=GREEN,
    foreground="#e6e6e6", background="#101418", surface="#101418", panel="#1c232b", dark=True,
)  # fmt: skip


class Look(NamedTuple):
    glyph: str
    word: str
    style: str


TASK: dict[str, Look] = {
    "dead_lettered": Look("✗", "dead-letter", f"bold {BAD}"),
    "failed": Look("!", "failed", BAD),
    "lost": Look("?", "lost", BAD),
    "orphaned": Look("?", "orphaned", BAD),
    "backoff": Look("↻", "back-off", ORANGE),
    "running": Look("▶", "running", SKY),
    "dispatched": Look("→", "dispatched", SKY),
    "succeeded": Look("◑", "succeeded", GREEN),
    "ready": Look("○", "ready", YELLOW),
    "waiting": Look("◌", "waiting", "#c8ced4"),
    "timed_out": Look("⧗", "timed-out", ORANGE),
    "cancelled": Look("⊘", "cancelled", DIM),
    "published": Look("✓", "published", GREEN),
}
ATTENTION = tuple(TASK)[:10]  # open phases, the most urgent first
NEWEST_FIRST = frozenset({"dead_lettered", "failed"})

WORKER: dict[str, Look] = {
    "alive": Look("●", "alive", GREEN),
    "draining": Look("◐", "draining", ORANGE),
    "lost": Look("✗", "lost", f"bold {BAD}"),
    "retired": Look("◌", "retired", DIM),
}


def look_of_worker(worker: Worker) -> Look:
    return WORKER["draining" if worker.phase == "alive" and worker.draining else worker.phase]


def by_attention(cluster: Cluster) -> Iterator[str]:
    """Ids of all tasks: what needs a person first, then what runs (the longest first), what waits, and what ended (the latest first)."""
    groups = (cluster.phase(phase) for phase in ATTENTION)
    urgent = (reversed(ids) if phase in NEWEST_FIRST else ids for phase, ids in zip(ATTENTION, groups, strict=True))
    return chain(chain.from_iterable(urgent), reversed(cluster.ended))
