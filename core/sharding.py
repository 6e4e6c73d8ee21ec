"""How a data-parallel task is split, and which items each shard takes."""

from __future__ import annotations

from mloc.core.events import Parallel


def shard_count(parallel: Parallel, items: int, workers: int) -> int:
    """Number of shards: as asked, or one for each worker with room; never more than the limits or the items give work for."""
    wanted = parallel.shards or max(1, workers)
    most = min(wanted, parallel.max_shards)
    return max(1, min(most, items // max(1, parallel.min_items_per_shard))) if items else max(1, most)


def shard_range(index: int, count: int, items: int) -> range:
    """The contiguous range of items of shard `index` of `count`; sizes differ by at most one."""
    return range(items * index // count, items * (index + 1) // count)
