"""`mloc export results` and `mloc report`: over the event log of this machine, or an API elsewhere with --url."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from mloc.services.exports.arguments import FILTERS
from mloc.services.exports.columns import ITEMS, TASKS, item_row, task_row
from mloc.services.exports.folder import new_version
from mloc.services.exports.report import report
from mloc.services.exports.stored_results import opened_result
from mloc.services.exports.tables import Table
from mloc.services.intake.commands.opening import open_source
from mloc.services.intake.commands.output import print_json, say
from mloc.services.intake.commands.source import Source, View
from mloc.services.intake.task_query import MAX_PAGE_SIZE, parse_query
from mloc.services.settings import Settings


def run_export(settings: Settings, asked: argparse.Namespace) -> int:
    """Raises ExportFailed, and what opening the log or the API raises."""
    return asyncio.run(_export(settings, asked))


def run_report(settings: Settings, asked: argparse.Namespace) -> int:
    """Raises what opening the log or the API raises."""
    return asyncio.run(_report(settings, asked))


async def _export(settings: Settings, asked: argparse.Namespace) -> int:
    about = {"export": asked.what, "format": asked.format, "made_at": datetime.now(UTC).isoformat(timespec="seconds"), "query": _query(asked)}
    async with open_source(settings, asked) as source:
        with (
            new_version(asked.output / asked.what, about) as (folder, place),
            Table(folder, "tasks", TASKS, asked.format) as tasks,
            Table(folder, "items", ITEMS, asked.format) as items,
        ):
            async for view in _views(source, asked):
                async with opened_result(source, view) as (result, rows):
                    count = 0
                    for row in rows or ():
                        if not view.get("shard"):  # a shard's are in its parent's
                            items.write(item_row(view, result.get("model"), count, row))
                        count += 1
                tasks.write(task_row(view, result, count if rows is not None else None))
    if asked.json:
        print_json({"ok": True, "path": str(place[0]), "tasks": tasks.rows, "items": items.rows})
    else:
        print(f"{place[0]}: {tasks.rows:,} tasks, {items.rows:,} items")
    return 0


async def _report(settings: Settings, asked: argparse.Namespace) -> int:
    async with open_source(settings, asked) as source:
        views = [view async for view in _views(source, asked)]
        now_ms, workers = await source.now_ms(), await source.workers()
        sums = await _sums(source, asked, now_ms)
    query = ", ".join(f"{name} {value}" for name, value in _query(asked).items())
    made = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="seconds")
    text = report(views, workers, now_ms, f"Tasks{f' with {query}' if query else ''}, as of {made}.", sums)
    if asked.output is not None:
        asked.output.write_text(text, encoding="utf-8")
        say(f"wrote {asked.output}")
    elif asked.json:
        print_json({"ok": True, "markdown": text})
    else:
        print(text, end="")
    return 0


async def _sums(source: Source, asked: argparse.Namespace, now_ms: int) -> View:
    """What the read model's sums say of the same tasks; `{"missing": why}` where they say nothing."""
    others = sorted({*_query(asked)} - {"owner", "since"})
    if others:
        return {"missing": f"sums are kept by owner and time of submission, not by {' or '.join(others)}"}
    since_ms = parse_query({"since": asked.since} if asked.since else {}, [], now_ms).since_ms
    start = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="seconds") if since_ms else ""
    return await source.statistics(asked.owner, start)


async def _views(source: Source, asked: argparse.Namespace) -> AsyncIterator[View]:
    """All tasks that are asked for, with stages and shards, the oldest first: what is submitted, or leaves the list, meanwhile moves no page."""
    fields, place, number = {name: value for name in FILTERS if (value := getattr(asked, name))}, {"page": "1"}, 1
    while True:
        page = await source.page({**fields, **place, "sort": "oldest", "page_size": str(MAX_PAGE_SIZE)}, asked.label)
        for warning in page["warnings"] if number == 1 else ():
            say(f"warning: {warning}")
        for view in page["tasks"]:
            yield view
        number += 1
        place = {"cursor": cursor} if (cursor := page["next_cursor"]) else {"page": str(number)}  # an older API has no cursors
        if len(page["tasks"]) < MAX_PAGE_SIZE:  # the total may be a lower bound
            return


def _query(asked: argparse.Namespace) -> dict[str, Any]:
    found = {name: value for name in FILTERS if (value := getattr(asked, name))}
    return {**found, **({"labels": asked.label} if asked.label else {})}
