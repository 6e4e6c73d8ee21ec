"""`mloc export results` and `mloc report`: over the event log of this machine, or an API elsewhere with --url."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from mloc.services.exports.arguments import FILTERS
from mloc.services.exports.columns import ITEMS, TASKS, item_rows, task_row
from mloc.services.exports.folder import new_version
from mloc.services.exports.report import report
from mloc.services.exports.tables import Table
from mloc.services.intake.commands.opening import open_source
from mloc.services.intake.commands.output import print_json, say
from mloc.services.intake.commands.source import Source, View
from mloc.services.intake.task_query import MAX_PAGE_SIZE
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
                result = await _result(source, view)
                tasks.write(task_row(view, result))
                for row in item_rows(view, result) if not view.get("shard") else ():  # a shard's are in its parent's
                    items.write(row)
    if asked.json:
        print_json({"ok": True, "path": str(place[0]), "tasks": tasks.rows, "items": items.rows})
    else:
        print(f"{place[0]}: {tasks.rows:,} tasks, {items.rows:,} items")
    return 0


async def _report(settings: Settings, asked: argparse.Namespace) -> int:
    async with open_source(settings, asked) as source:
        views = [view async for view in _views(source, asked)]
        now_ms, workers = await source.now_ms(), await source.workers()
    query = ", ".join(f"{name} {value}" for name, value in _query(asked).items())
    made = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="seconds")
    text = report(views, workers, now_ms, f"Tasks{f' with {query}' if query else ''}, as of {made}.")
    if asked.output is not None:
        asked.output.write_text(text, encoding="utf-8")
        say(f"wrote {asked.output}")
    elif asked.json:
        print_json({"ok": True, "markdown": text})
    else:
        print(text, end="")
    return 0


async def _views(source: Source, asked: argparse.Namespace) -> AsyncIterator[View]:
    """All tasks that are asked for, with stages and shards, the oldest first: what is submitted meanwhile moves no page."""
    fields, number = {name: value for name in FILTERS if (value := getattr(asked, name))}, 1
    while True:
        page = await source.page({**fields, "sort": "oldest", "page": str(number), "page_size": str(MAX_PAGE_SIZE)}, asked.label)
        for view in page["tasks"]:
            yield view
        number += 1
        if len(page["tasks"]) < MAX_PAGE_SIZE:  # the total may be a lower bound
            return


async def _result(source: Source, view: View) -> dict[str, Any]:
    """One at a time is held; {} for a task without a result, or one that is no JSON object."""
    if view["state"] != "published":
        return {}
    if await source.large_result(view["task_id"]):
        with tempfile.TemporaryFile() as stored:
            await source.copy_result(view["task_id"], stored)
            stored.seek(0)
            text: bytes | None = stored.read()
    else:
        text = await source.result(view["task_id"])
    with contextlib.suppress(msgspec.DecodeError):
        value = msgspec.json.decode(text or b"{}")
        return value if isinstance(value, dict) else {}
    return {}


def _query(asked: argparse.Namespace) -> dict[str, Any]:
    found = {name: value for name in FILTERS if (value := getattr(asked, name))}
    return {**found, **({"labels": asked.label} if asked.label else {})}
