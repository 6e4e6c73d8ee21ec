"""`mloc-intake result`: a task's result on standard output or in a file, the list of its files, one of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from mloc.core.failure import cancellation
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.output import print_json, say, table
from mloc.services.intake.commands.source import Source, View, has_ended
from mloc.services.intake.commands.tasks import with_source
from mloc.services.intake.commands.wait import until_ended
from mloc.services.intake.task_requests import words


@with_source
async def show_result(source: Source, asked: argparse.Namespace) -> int:
    """`responses.json` on standard output; with --wait after the task has ended."""
    id = await source.find(asked.task)
    view = await source.task(id)
    if asked.wait and not has_ended(view):
        view = (await until_ended(source, [id], with_logs=False, quiet=asked.json or asked.quiet))[0]
    if asked.files or asked.file:
        return await (_list_files(source, asked, view) if asked.files else _save(source, asked, view))
    if view["state"] == "published" and await source.large_result(id):  # as it is, in pieces
        return await _copy_large(source, asked, id)
    result = await source.result(id) if view["state"] == "published" and not view.get("expired_at") else None
    if result is None:
        return await _none(source, asked, view)
    text = msgspec.json.format(result, indent=2)
    if not asked.output:
        print(text.decode())
        return codes.OK
    Path(asked.output).write_bytes(text + b"\n")
    return _wrote(asked, id, Path(asked.output))


async def _copy_large(source: Source, asked: argparse.Namespace, id: str) -> int:
    if asked.output:
        with Path(asked.output).open("wb") as opened:
            await source.copy_result(id, opened)
        return _wrote(asked, id, Path(asked.output))
    sys.stdout.flush()
    await source.copy_result(id, sys.stdout.buffer)
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return codes.OK


async def _list_files(source: Source, asked: argparse.Namespace, view: View) -> int:
    manifest = await source.manifest(view["task_id"])
    if manifest is None:
        return await _none(source, asked, view)
    if asked.json:
        print_json({"ok": True, **manifest})
        return codes.OK
    print(table(("BYTES", "SHA256", "NAME"), [(f"{file['size']:,}", file["sha256"][:12], file["path"]) for file in manifest["files"]]))
    return codes.OK


async def _save(source: Source, asked: argparse.Namespace, view: View) -> int:
    to = Path(asked.to or ".")
    if to.is_dir():
        to = to / Path(asked.file).name
    await source.save_file(view["task_id"], asked.file, to)
    return _wrote(asked, view["task_id"], to)


def _wrote(asked: argparse.Namespace, id: str, to: Path) -> int:
    if asked.json:
        print_json({"ok": True, "task_id": id, "path": str(to), "size": to.stat().st_size})
    else:
        say(f"wrote {to} ({to.stat().st_size:,} bytes)")
    return codes.OK


async def _none(source: Source, asked: argparse.Namespace, view: View) -> int:
    message = await _why_no_result(source, view)
    if asked.json:
        own = msgspec.to_builtins(cancellation(view["reason"])) if view["state"] == "cancelled" else view["error"]
        error = own or {"type": view["state"], "message": message}
        print_json({"ok": False, "task_id": view["task_id"], "state": view["state"], "error": error})
    say(message)
    return codes.FAILED


async def _why_no_result(source: Source, view: View) -> str:
    id = view["task_id"]
    if until := view.get("expired_at") or view.get("expires_at"):
        return f"the result of {id} is not there any more: it was kept until {until} (ttl_sec)"
    if view["state"] == "published":
        return f"the result of {id} is not there ({source.place(id)}): is RESULTS_DIR the one of the aggregator?"
    if has_ended(view):
        return f"{id} has no result: it is {words(view['state'])}" + (f" ({view['reason']})" if view["reason"] else "")
    return f"{id} has no result yet: {(await source.explanation(id))['summary']}"
