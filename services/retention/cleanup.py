"""One cleanup: names from the disk, verdicts from the fold, sizes and removal off the loop. `mloc gc` runs it, and so does the API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec

from mloc.core.cluster import Cluster
from mloc.services.exit_codes import CLEAN
from mloc.services.intake.commands.log_session import opened
from mloc.services.intake.commands.output import say
from mloc.services.intake.views import iso
from mloc.services.retention.leftovers import SETTLED_SEC, Cleanup, is_over, measured, names, remove
from mloc.services.settings import Settings

MOST_AT_ONCE = 10_000


async def clean_up(
    cluster: Cluster, results_dir: Path, now_ms: int, *, dry_run: bool, settled_sec: float = SETTLED_SEC, most: int = MOST_AT_ONCE
) -> Cleanup:
    """Remove what ended tasks left, at most `most` folders; or say what would go. Raises OSError."""
    found = await asyncio.to_thread(names, results_dir)
    going = [name for name in found if is_over(cluster, results_dir, name, now_ms, settled_sec)][:most]
    sizes = await asyncio.to_thread(lambda: list(measured(results_dir, going)))
    if not dry_run:
        await asyncio.to_thread(remove, results_dir, going)
    return Cleanup(
        dry_run, len(going), sum(one.size_bytes for one in sizes), len(found) - len(going), tuple(going),
        len(cluster.expiring), cluster.expiring[0][0] if cluster.expiring else None,
    )  # fmt: skip


def run(settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """The command; gives its exit code. Raises NoServerError, LogUnavailable, OSError."""

    async def go() -> Cleanup:
        async with opened(settings) as session:
            return await clean_up(session.cluster, session.results_dir, await session.log.now_ms(), dry_run=dry_run)

    done = asyncio.run(go())
    if as_json:
        print(json.dumps({"ok": True, **msgspec.to_builtins(done)}))
        return CLEAN
    for task in done.tasks:
        print(task)
    say(f"{'would remove' if dry_run else 'removed'} what the attempts of {done.folders:,} ended tasks left, {done.size_bytes / 2**20:,.1f} MiB; "
        f"kept that of {done.kept:,}")  # fmt: skip
    if done.next_expiry_ms is not None:
        say(f"{done.expiring:,} results are kept for a time only (ttl_sec) and go by themselves, the next at {iso(done.next_expiry_ms)}")
    return CLEAN
