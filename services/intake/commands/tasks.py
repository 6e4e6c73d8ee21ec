"""`mloc-intake list`, `show`, `explain`, `logs`, `result`, `cancel`, `retry`, `templates`: what became of tasks, and what people ask of them."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from mloc.core.events import Event
from mloc.core.explain import explain
from mloc.core.task import FINAL, Task
from mloc.services.clock import SystemClock
from mloc.services.intake import task_requests
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.log_session import Session, opened, user
from mloc.services.intake.commands.output import GLYPHS, age, one_line, print_json, printable, say, table
from mloc.services.intake.commands.wait import telemetry_line, wait_for
from mloc.services.intake.published_results import large_result, log_text, read_result, result_folder
from mloc.services.intake.submitter import Submitter
from mloc.services.intake.task_file import templates as known_templates
from mloc.services.intake.task_file import title_of
from mloc.services.intake.task_query import find_tasks, parse_query
from mloc.services.intake.task_requests import RequestRefused, words
from mloc.services.intake.views import iso, task_page, task_view
from mloc.services.settings import Settings


def list_tasks(settings: Settings, asked: argparse.Namespace) -> int:
    async def go() -> int:
        async with opened(settings) as session:
            now_ms = await session.log.now_ms()
            named = ("state", "kind", "owner", "project", "since", "sort")
            fields = {name: value for name in named if (value := getattr(asked, name))}
            fields |= {"page_size": str(asked.limit), "parent": "" if asked.all else "none"}
            page = find_tasks(session.cluster, parse_query(fields, asked.label, now_ms))
            if asked.json:
                print_json({"ok": True, "tasks": [task_view(session.cluster, task) for task in page.tasks], "total": page.total})
                return codes.OK
            rows = [_row(task, now_ms) for task in page.tasks]
            print(table(("ID", "NAME", "TYPE", "STATE", "AGE", "WORKER", "WHY"), rows) if rows else "no tasks")
            if page.total > len(rows):
                print(f"showing {len(rows)} of {page.total}")
            return codes.OK

    return asyncio.run(go())


def show(settings: Settings, asked: argparse.Namespace) -> int:
    async def go() -> int:
        async with opened(settings) as session:
            task = session.task(asked.task)
            page = msgspec.to_builtins(task_page(session.cluster, task))
            if asked.json:
                print_json({"ok": True, **page})
                return codes.OK
            for name, value in _facts(session, task):
                print(f"{name:<12} {printable(value)}")
            parts = session.family(task)[1:]
            if parts:
                now_ms = await session.log.now_ms()
                print("\n" + table(("PART", "TYPE", "STATE", "AGE", "WORKER", "WHY"), [_row(part, now_ms)[1:] for part in parts]))
            if page["spec"]:
                print("\nspec\n" + msgspec.json.format(msgspec.json.encode(page["spec"]), indent=2).decode())
            return codes.OK

    return asyncio.run(go())


def show_explanation(settings: Settings, asked: argparse.Namespace) -> int:
    async def go() -> int:
        async with opened(settings) as session:
            task = session.task(asked.task)
            explanation = explain(session.cluster, task)
            if asked.json:
                print_json({"ok": True, "task_id": task.id, **msgspec.to_builtins(explanation)})
                return codes.OK
            print(f"{task.id}: {explanation.summary}")
            for verdict in explanation.workers:
                print(f"  {'✓' if verdict.has_room else '✗'} {verdict.worker}: {verdict.why}")
            return codes.OK

    return asyncio.run(go())


def show_logs(settings: Settings, asked: argparse.Namespace) -> int:
    """The lines that are there; with --follow those that come, until the task has ended."""

    async def go() -> int:
        async with opened(settings) as session:
            task = session.task(asked.task)
            if asked.follow and task.phase not in FINAL and task.phase != "dead_lettered":
                return await wait_for(session, [task.id], as_json=asked.json, with_logs=True)
            for part in session.family(task):
                after = "0-0"
                while points := await session.log.read_telemetry(part.id, after):
                    for id, point in points:
                        if asked.json:
                            line = {"task_id": part.id, "id": id, "at": iso(int(id.partition("-")[0])), **msgspec.to_builtins(point)}
                            print(msgspec.json.encode(line).decode())
                        elif text := telemetry_line(point):
                            print(f"{part.stage or part.name} | {text}" if task.children else text)
                    after = points[-1][0]
                if after == "0-0" and not asked.json and (kept := log_text(session.results_dir, part)):
                    sys.stdout.write(printable(kept))
            return codes.OK

    return asyncio.run(go())


def show_result(settings: Settings, asked: argparse.Namespace) -> int:
    """`responses.json` on standard output; with --wait after the task has ended."""

    async def go() -> int:
        async with opened(settings) as session:
            task = session.task(asked.task)
            if asked.wait and task.phase not in FINAL and task.phase != "dead_lettered":
                return await wait_for(session, [task.id], as_json=True, with_logs=False)
            if (stored := large_result(session.results_dir, task)) is not None:
                return _copied_out(stored)
            result = await read_result(session.log, session.results_dir, task) if task.phase == "published" else None
            if result is None:
                message = _why_no_result(session, task)
                say(message)
                if asked.json:
                    error = msgspec.to_builtins(task.error) if task.error else {"type": task.phase, "message": message}
                    print_json({"ok": False, "task_id": task.id, "state": task.phase, "error": error})
                return codes.FAILED
            print(msgspec.json.format(result, indent=2).decode())
            return codes.OK

    return asyncio.run(go())


def _copied_out(stored: Path) -> int:
    """A result too large to be laid out: as it is, in pieces."""
    sys.stdout.flush()
    with stored.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return codes.OK


def cancel(settings: Settings, asked: argparse.Namespace) -> int:
    return _ask(settings, asked, lambda task: task_requests.cancel(task, user(), asked.reason), "cancel requested")


def retry(settings: Settings, asked: argparse.Namespace) -> int:
    return _ask(settings, asked, lambda task: task_requests.retry(task, user()), "retry requested")


def templates(settings: Settings, asked: argparse.Namespace) -> int:
    """The names with their titles, or the text of one."""
    known = known_templates()
    if asked.name:
        if asked.name not in known:
            say(f"there is no template {asked.name!r}; the templates are: {', '.join(known) or 'none'}")
            return codes.INVALID
        sys.stdout.write(known[asked.name].read_text(encoding="utf-8"))
    elif asked.json:
        print_json({"ok": True, "templates": [{"name": name, "title": title_of(path), "path": str(path)} for name, path in known.items()]})
    else:
        print(table(("NAME", "WHAT"), [(name, title_of(path)) for name, path in known.items()]))
    return codes.OK


def _ask(settings: Settings, asked: argparse.Namespace, event_for: Callable[[Task], Event], said: str) -> int:
    """Put a request for each task into the log; what comes of it follows."""

    async def go() -> int:
        async with opened(settings) as session:
            submitter = Submitter(session.log, SystemClock(), settings.backlog_limit)
            code, shown = codes.OK, []
            for text in asked.tasks:
                task = session.task(text)
                try:
                    submitted = await submitter.request(event_for(task))
                    shown.append({"ok": True, "task_id": task.id, "event_id": submitted.last_id})
                    if not asked.json:
                        print(f"{task.id}: {said}")
                except RequestRefused as error:
                    code = codes.REFUSED
                    shown.append({"ok": False, "task_id": task.id, "error": {"message": str(error), "hint": error.hint}})
                    if not asked.json:
                        say(f"{error}" + (f"; {error.hint}" if error.hint else ""))
            if asked.json:
                print_json(shown[0] if len(shown) == 1 else {"ok": code == codes.OK, "tasks": shown})
            return code

    return asyncio.run(go())


def _row(task: Task, now_ms: int) -> tuple[str, ...]:
    worker = task.worker if task.phase in ("dispatched", "running") and not task.children else ""
    return (
        task.id, task.stage or task.name or "-", task.task_type or "pipeline", f"{GLYPHS[task.phase]} {words(task.phase)}",
        age(now_ms - task.submitted_ms), worker or "-", one_line(task.reason, 80),
    )  # fmt: skip


def _facts(session: Session, task: Task) -> list[tuple[str, str]]:
    cluster = session.cluster
    facts = [
        ("id", task.id), ("name", task.name), ("kind", task.kind), ("type", task.task_type or "pipeline"),
        ("state", f"{GLYPHS[task.phase]} {words(task.phase)} since {iso(task.since_ms)}"),
        ("why", "" if task.phase == "published" else explain(cluster, task).summary),
        ("owner", task.owner), ("project", task.project), ("labels", ", ".join(f"{name}={value}" for name, value in task.labels.items())),
        ("priority", str(task.priority)), ("depends on", ", ".join(task.depends_on)), ("part of", task.parent),
        ("worker", task.worker), ("attempts", f"{task.tries}, {task.failures} failed of at most {task.max_attempts}" if task.tries else ""),
        ("submitted", iso(task.submitted_ms) or ""), ("started", iso(task.started_ms) or ""), ("ended", iso(task.ended_ms) or ""),
        ("error", f"{task.error.type}: {one_line(task.error.message, 500)}" if task.error else ""),
    ]  # fmt: skip
    folder = result_folder(session.results_dir, task.id)
    if folder.is_dir():
        facts.append(("result", str(folder.resolve())))
    return [(name, value) for name, value in facts if value]


def _why_no_result(session: Session, task: Task) -> str:
    if task.phase == "published":
        return f"the result of {task.id} is not at {result_folder(session.results_dir, task.id)}: is RESULTS_DIR the one of the aggregator?"
    if task.phase in FINAL or task.phase == "dead_lettered":
        return f"{task.id} has no result: it is {words(task.phase)}" + (f" ({task.reason})" if task.reason else "")
    return f"{task.id} has no result yet: {explain(session.cluster, task).summary}"
