"""One cleanup: names from the disk, verdicts from the fold, sizes and removal off the loop. `mloc gc` runs it, and so does the API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec

from mloc.core.cluster import Cluster
from mloc.services.artifacts import inputs
from mloc.services.exit_codes import CLEAN
from mloc.services.intake.commands.log_session import opened
from mloc.services.intake.commands.output import say
from mloc.services.intake.views import iso
from mloc.services.results.folders import input_path
from mloc.services.retention.leftovers import SETTLED_SEC, Cleanup, is_input_over, is_over, measured, names, remove
from mloc.services.settings import Settings

MOST_AT_ONCE = 10_000


async def clean_up(
    cluster: Cluster, results_dir: Path, now_ms: int, *, dry_run: bool, settled_sec: float = SETTLED_SEC, most: int = MOST_AT_ONCE
) -> Cleanup:
    """Remove what ended tasks left, at most `most` folders; or say what would go. Raises OSError."""
    found, uploaded = await asyncio.to_thread(names, results_dir), await asyncio.to_thread(inputs.uploaded, results_dir)
    going = [name for name in found if is_over(cluster, results_dir, name, now_ms, settled_sec)][:most]
    named = inputs.inputs_in(cluster.specs.values())  # by open tasks, also by those that came past the API
    unused = [one for one in uploaded if one.sha256 not in named and is_input_over(cluster, results_dir, one, now_ms, settled_sec)][:most]
    sizes = await asyncio.to_thread(lambda: list(measured(results_dir, going)))
    if not dry_run:
        await asyncio.to_thread(remove, results_dir, going)
        for one in unused:
            await asyncio.to_thread(inputs.remove, results_dir, one)
    return Cleanup(
        dry_run, len(going), sum(one.size_bytes for one in sizes) + sum(one.size_bytes for one in unused), len(found) - len(going), tuple(going),
        tuple(input_path(one.sha256, name) for one in unused for name in one.files),
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
    for name in (*done.tasks, *done.inputs):
        print(name)
    inputs_too = f" and {len(done.inputs):,} uploaded inputs of such," if done.inputs else ","
    what = f"what the attempts of {done.folders:,} ended tasks left{inputs_too} {done.size_bytes / 2**20:,.1f} MiB"
    say(f"{'would remove' if dry_run else 'removed'} {what}; kept that of {done.kept:,}")
    if done.next_expiry_ms is not None:
        say(f"{done.expiring:,} results are kept for a time only (ttl_sec) and go by themselves, the next at {iso(done.next_expiry_ms)}")
    return CLEAN
