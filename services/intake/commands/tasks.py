"""`mloc-intake list`, `show`, `explain`, `logs`, `cancel`, `retry`: what became of tasks, and what people ask of them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.opening import open_source
from mloc.services.intake.commands.output import GLYPHS, age, one_line, print_json, printable, say, table
from mloc.services.intake.commands.source import Source, View, has_ended, milliseconds
from mloc.services.intake.commands.wait import wait_for
from mloc.services.intake.streams.line_text import line_text
from mloc.services.intake.task_requests import RequestRefused, words
from mloc.services.intake.views import CallbackView, told
from mloc.services.settings import Settings
from mloc.services.shell_completion import remember

Command = Callable[[Settings, argparse.Namespace], int]


def with_source(go: Callable[[Source, argparse.Namespace], Awaitable[int]]) -> Command:
    """A command that needs the event log or the API."""

    def command(settings: Settings, asked: argparse.Namespace) -> int:
        async def opened() -> int:
            async with open_source(settings, asked) as source:
                return await go(source, asked)

        return asyncio.run(opened())

    command.__name__, command.__doc__ = go.__name__, go.__doc__
    return command


@with_source
async def list_tasks(source: Source, asked: argparse.Namespace) -> int:
    named = ("state", "kind", "owner", "project", "since", "sort")
    fields = {name: value for name in named if (value := getattr(asked, name))}
    page = await source.page(fields | {"page_size": str(asked.limit)} | ({} if asked.all else {"parent": "none"}), asked.label)
    if asked.json:
        print_json({"ok": True, **page})
        return codes.OK
    remember(name for task in page["tasks"] for name in (task["task_id"], task["name"]))
    now_ms = await source.now_ms()
    rows = [_row(task, now_ms) for task in page["tasks"]]
    print(table(("ID", "NAME", "TYPE", "STATE", "AGE", "WORKER", "WHY"), rows) if rows else "no tasks")
    if page["total"] > len(rows):
        print(f"showing {len(rows)} of {'at least ' if page['total_is_at_least'] else ''}{page['total']}")
    for warning in page["warnings"]:
        say(f"warning: {warning}")
    return codes.OK


@with_source
async def show(source: Source, asked: argparse.Namespace) -> int:
    id = await source.find(asked.task)
    page = await source.task(id)
    if asked.json:
        print_json({"ok": True, **page})
        return codes.OK
    why = "" if page["state"] == "published" else (await source.explanation(id))["summary"]
    for name, value in _facts(page, why, source.place(id) if page["state"] == "published" else ""):
        print(f"{name:<12} {printable(value)}")
    parts = (await source.family([id]))[1:]
    if parts:
        now_ms = await source.now_ms()
        print("\n" + table(("PART", "TYPE", "STATE", "AGE", "WORKER", "WHY"), [_row(part, now_ms)[1:] for part in parts]))
    if page["spec"]:
        print("\nspec\n" + msgspec.json.format(msgspec.json.encode(page["spec"]), indent=2).decode())
    return codes.OK


@with_source
async def show_explanation(source: Source, asked: argparse.Namespace) -> int:
    id = await source.find(asked.task)
    explanation = await source.explanation(id)
    if asked.json:
        print_json({"ok": True, "task_id": id, **explanation})
        return codes.OK
    print(f"{id}: {printable(explanation['summary'])}")
    for verdict in explanation["workers"]:
        print(f"  {'✓' if verdict['has_room'] else '✗'} {verdict['worker']}: {printable(verdict['why'])}")
    return codes.OK


@with_source
async def show_logs(source: Source, asked: argparse.Namespace) -> int:
    """The lines that are there; with --follow those that come, until the task has ended."""
    id = await source.find(asked.task)
    family = await source.family([id])
    if asked.follow and not has_ended(family[0]):
        return await wait_for(source, [id], as_json=asked.json, with_logs=True, quiet=asked.quiet)
    for part in family:
        if part["children"]:  # the API has the lines of its parts under it, too
            continue
        before = ""
        async for point in _all_lines(source, part["task_id"]):
            if asked.json:
                print(msgspec.json.encode({"task_id": part["task_id"], **point}).decode())
            elif text := line_text(point, before):
                before = text
                print(f"{printable(part['stage'] or part['name'])} | {text}" if len(family) > 1 else text)
    return codes.OK


async def _all_lines(source: Source, id: str) -> AsyncIterator[View]:
    after = ""
    while points := await source.lines(id, after):
        for point in points:
            yield point
        if not (after := points[-1].get("id", "")):
            return


@with_source
async def cancel(source: Source, asked: argparse.Namespace) -> int:
    return await _ask(source, asked, "cancel", asked.reason)


@with_source
async def retry(source: Source, asked: argparse.Namespace) -> int:
    return await _ask(source, asked, "retry", "")


async def _ask(source: Source, asked: argparse.Namespace, what: str, reason: str) -> int:
    """Put a request for each task into the log; what comes of it follows."""
    code, shown = codes.OK, []
    for text in asked.tasks:
        id = await source.find(text)
        try:
            answer = await source.ask(what, id, reason)
            shown.append({"ok": True, "task_id": id, **answer})
            if not asked.json:
                print(f"{id}: {what} requested")
        except RequestRefused as error:
            code = codes.REFUSED
            shown.append({"ok": False, "task_id": id, "error": {"message": str(error), "hint": error.hint}})
            if not asked.json:
                say(f"{error}" + (f"; {error.hint}" if error.hint else ""))
    if asked.json:
        print_json(shown[0] if len(shown) == 1 else {"ok": code == codes.OK, "tasks": shown})
    return code


def _row(view: View, now_ms: int) -> tuple[str, ...]:
    worker = view["worker_id"] if view["state"] in ("dispatched", "running") and not view["children"] else ""
    return (
        view["task_id"], view["stage"] or view["name"] or "-", view["task_type"], f"{GLYPHS[view['state']]} {words(view['state'])}",
        age(now_ms - milliseconds(view["submitted_at"])), worker or "-", one_line(view["reason"], 80),
    )  # fmt: skip


def _facts(view: View, why: str, place: str) -> list[tuple[str, str]]:
    tries, error = view["attempts"], view["error"]
    facts = [
        ("id", view["task_id"]), ("name", view["name"]), ("kind", view["kind"]), ("type", view["task_type"]),
        ("state", f"{GLYPHS[view['state']]} {words(view['state'])} since {view['since']}"), ("why", why),
        ("owner", view["owner"]), ("project", view["project"]), ("labels", ", ".join(f"{name}={value}" for name, value in view["labels"].items())),
        ("priority", str(view["priority"])), ("depends on", ", ".join(view["depends_on"])), ("part of", view["parent"]),
        ("worker", view["worker_id"]), ("attempts", f"{tries}, {view['failures']} failed of at most {view['max_attempts']}" if tries else ""),
        ("submitted", view["submitted_at"]), ("started", view["started_at"]), ("ended", view["ended_at"]),
        ("error", f"{error['type']}: {one_line(error['message'], 500)}" if error else ""),
        ("result", f"its time was over at {expired}" if (expired := view.get("expired_at")) else place), ("kept until", view.get("expires_at") or ""),
        *(("told", one_line(told(msgspec.convert(one, CallbackView)), 400)) for one in view.get("callbacks", ())),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]
