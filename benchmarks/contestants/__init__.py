"""Who runs: one file each. `by_name` gives a contestant for a trial."""

from __future__ import annotations

from importlib import import_module

from world import World

from contestants.contestant import Contestant

# name → (module, class, durability of its server)
CONTESTANTS = {
    "raw": ("raw_stream", "RawStream", "fast"),
    "dramatiq": ("dramatiq_queue", "DramatiqQueue", "fast"),
    "taskiq": ("taskiq_queue", "TaskiqQueue", "fast"),
    "mloc": ("mloc_spine", "MlocSpine", "fast"),
    "mloc-ext4": ("mloc_spine", "MlocSpine", "fast"),
    "mloc-always": ("mloc_spine", "MlocSpine", "always"),
}


def by_name(name: str, world: World) -> Contestant:
    module, made, _ = CONTESTANTS[name]
    return getattr(import_module(f"contestants.{module}"), made)(name, world)


def durability_of(name: str) -> str:
    return CONTESTANTS[name][2]
