"""The commands' source behind an API: the same answers as the event log's, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from mloc.services.durable_files import staged
from mloc.services.intake.commands.api_client import ApiClient, segment
from mloc.services.intake.commands.api_log_streams import LogStreams
from mloc.services.intake.commands.log_session import user
from mloc.services.intake.commands.source import Accepted, Prepared, Unreachable, View, has_ended
from mloc.services.intake.commands.task_text import as_submitted
from mloc.services.intake.published_results import LARGE_BYTES
from mloc.services.intake.task_names import LIST_THEM, UnknownTask

LOOK_SEC = 0.5  # between two looks at what is waited for, where its events cannot be followed
LOOK_ANYHOW_SEC = 5.0  # and where they can
FOLLOW_AGAIN_SEC = 2.0
MOST_FOLLOWED = 8  # tasks, each with a stream of its events; of more, all events would be sent
_WORKERS_PAGE = 500
_POSITION = re.compile(r"^\d+:\d+: ")


class ApiSource:
    """`again` is " --url …" where the command line gave it. `uploads`: local files that a task names are brought to the API before it."""

    def __init__(self, client: ApiClient, again: str, *, uploads: bool = True, quiet: bool = True) -> None:
        self._client = client
        self._uploads, self._quiet = uploads, quiet
        self.again = again
        self.trouble = ""
        self._known: dict[str, View] = {}  # while following; what has ended is not asked for again
        self._is_following = False
        self._news = asyncio.Event()
        self._logs: LogStreams | None = None
        self._roots: list[str] = []  # what is followed with streams
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._streaming: set[str] = set()  # ids whose events come
        self._looked_at = 0.0

    async def submit(self, prepared: Prepared, key: str) -> Accepted:
        body, kind, warnings = as_submitted(prepared, await self._uploaded(prepared))
        headers = {"Content-Type": kind, "Idempotency-Key": key or f"once-{secrets.token_hex(16)}"}  # a repeated request never doubles
        answer = await self._client.post("/api/v1/tasks", body, headers, repeatable=True)
        return Accepted(answer["tasks"], _together(prepared, warnings, answer), bool(answer.get("repeated")))

    async def dry_run(self, prepared: Prepared) -> View:
        body, kind, warnings = as_submitted(prepared)
        answer = await self._client.post("/api/v1/tasks?dry_run=1", body, {"Content-Type": kind}, repeatable=True)
        if self._uploads:  # the files would be there when the tasks are
            warnings, here = [], prepared.local_files.values()
            answer["warnings"] = [said for said in answer["warnings"] if not any(file in said for file in here)]
        tasks = [{name: task.get(name) for name in ("name", "task_type", "placement")} for task in answer["tasks"]]
        return {"tasks": tasks, "warnings": _together(prepared, warnings, answer)}

    async def _uploaded(self, prepared: Prepared) -> dict[str, str]:
        """Files that the text names by relative paths → where the API has them now."""
        if not self._uploads or not prepared.local_files:
            return {}
        from mloc.services.intake.commands.uploads import bring

        return await bring(self._client.root, self._client.transfer(), prepared.local_files, quiet=self._quiet)

    # --- reading ---

    async def find(self, text: str) -> str:
        with contextlib.suppress(UnknownTask):
            return str((await self._client.get(_path(text)))["task_id"])
        try:
            return str((await self._client.get(f"/api/v1/names/{segment(text)}"))["task_id"])
        except UnknownTask as error:
            raise UnknownTask(str(error).replace(LIST_THEM, f"`mloc-intake list{self.again}` shows what there is")) from error

    async def page(self, fields: dict[str, str], labels: list[str]) -> View:
        answer = await self._client.get("/api/v1/tasks", [*fields.items(), *(("label", label) for label in labels)])
        newer: View = {"total_is_at_least": False, "next_cursor": None, "warnings": []}  # than some APIs
        return {"tasks": answer["tasks"], "total": answer["total"], **{name: answer.get(name, value) for name, value in newer.items()}}

    async def task(self, id: str) -> View:
        return _without_ok(await self._client.get(_path(id)))

    async def explanation(self, id: str) -> View:
        answer = _without_ok(await self._client.get(f"{_path(id)}/explain"))
        answer.pop("task_id", None)
        return answer

    async def lines(self, id: str, after: str) -> list[View]:
        root = next((root for root in self._roots if id == root or id.startswith(f"{root}.")), "")
        if self._logs is not None and root:
            came = await self._logs.take(root, id, is_over=root in self._known and has_ended(self._known[root]))
            if came is not None:
                return came
        after = after.partition(":")[0]  # a line of a part is called otherwise in the stream of the whole
        answer = await self._client.get(f"{_path(id)}/logs", {"after": after} if after else {})
        lines: list[View] = answer["lines"]
        return lines

    async def result(self, id: str) -> bytes | None:
        answer = await self._client.send("GET", f"/api/v1/results/{segment(id)}")
        if answer.status == 200 and answer.json() is not None:
            return answer.body
        with contextlib.suppress(UnknownTask):
            await self._client.get(f"/api/v1/results/{segment(id)}")  # raises what is wrong
        return None

    async def large_result(self, id: str) -> str:
        path = f"/api/v1/results/{segment(id)}"
        answer = await self._client.send("HEAD", path)
        length = answer.headers.get("Content-Length", "")
        return self._client.root + path if answer.status == 200 and length.isdecimal() and int(length) > LARGE_BYTES else ""

    async def copy_result(self, id: str, to: BinaryIO) -> None:
        async with self._client.download(f"/api/v1/results/{segment(id)}") as pieces:
            async for piece in pieces:
                await asyncio.to_thread(to.write, piece)

    async def manifest(self, id: str) -> View | None:
        with contextlib.suppress(UnknownTask):
            manifest: View = (await self._client.get(f"/api/v1/results/{segment(id)}/files"))["manifest"]
            return manifest
        return None

    async def save_file(self, id: str, name: str, to: Path) -> None:
        async with self._client.download(f"/api/v1/results/{segment(id)}/files/{'/'.join(segment(part) for part in name.split('/'))}") as pieces:
            with staged(to) as partial, partial.open("wb") as opened:
                async for piece in pieces:
                    await asyncio.to_thread(opened.write, piece)

    async def workers(self) -> list[View]:
        found: list[View] = []
        while True:
            page = await self._client.get("/api/v1/workers", {"page": str(len(found) // _WORKERS_PAGE + 1), "page_size": str(_WORKERS_PAGE)})
            found += page["workers"]
            if len(found) >= page["total"] or not page["workers"]:
                return found

    async def statistics(self, owner: str, start: str) -> View:
        query = {"user": owner, "start_date": start, "by": "" if owner else "owner"}
        answer = await self._client.send("GET", "/api/v1/stats", query=query)
        body: View = answer.json() or {}
        return body if answer.status == 200 else {"missing": body.get("error", {}).get("message", f"the API answers {answer.status}")}

    async def now_ms(self) -> int:
        return self._client.now_ms()

    # --- asking ---

    async def ask(self, what: str, id: str, reason: str) -> View:
        body = msgspec.json.encode({"by": user(), **({"reason": reason} if reason else {})})
        answer = await self._client.post(f"{_path(id)}/{what}", body, {"Content-Type": "application/json"}, repeatable=what == "cancel")
        return {"state": answer["state"], "event_id": answer["event_id"]}

    # --- following ---

    @contextlib.asynccontextmanager
    async def following(self, *, with_logs: bool = False) -> AsyncIterator[None]:
        self._logs = LogStreams(self._client) if with_logs else None
        self._is_following, self._known, patient = True, {}, self._client.patient
        self._client.patient = False
        try:
            yield
        finally:
            for stream in self._streams.values():
                stream.cancel()
            await asyncio.gather(*self._streams.values(), return_exceptions=True)
            if self._logs is not None:
                await self._logs.close()
            self._streams, self._streaming, self._logs, self._roots = {}, set(), None, []
            self._is_following, self.trouble, self._client.patient = False, "", patient

    async def family(self, ids: list[str]) -> list[View]:
        """While following: asked for when something happened, or now and then; what was seen last where the API cannot be reached now."""
        if not self._is_following or self._is_due(ids):
            await self._look_at(ids)
        return [view for id in ids for view in self._descendants(id)]

    async def moved(self, timeout_sec: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_sec):
                await self._news.wait()

    def _is_due(self, ids: list[str]) -> bool:
        if len(ids) <= MOST_FOLLOWED:
            self._roots = ids
            for id in ids:
                if id not in self._streams:
                    self._streams[id] = asyncio.create_task(self._follow(id))
        waits = LOOK_ANYHOW_SEC if self._streaming >= set(ids) and not self.trouble else LOOK_SEC
        return self._news.is_set() or time.monotonic() - self._looked_at >= waits

    async def _look_at(self, ids: list[str]) -> None:
        self._news.clear()  # what comes from here on is looked at again
        try:
            for id in ids:
                await self._look(id)
            self.trouble = ""
        except Unreachable as error:
            if not self._is_following:
                raise
            self.trouble = str(error)
        self._looked_at = time.monotonic()

    async def _follow(self, id: str) -> None:
        """Each event of the task or of its parts is a reason to look; an API without streams is looked at often instead."""
        while True:
            with contextlib.suppress(Unreachable):
                async with self._client.stream("/api/v1/events", {"task": id}) as lines:
                    self._streaming.add(id)
                    self._news.set()  # what happened before the stream began
                    async for line in lines:
                        if line.startswith(b"data:"):
                            self._news.set()
            self._streaming.discard(id)
            await asyncio.sleep(FOLLOW_AGAIN_SEC)

    async def settle(self, ids: list[str]) -> None:
        """The API has a result at once."""

    def place(self, id: str) -> str:
        return f"mloc-intake result {id}{self.again}"

    async def _look(self, id: str) -> None:
        known = self._known.get(id)
        if known is not None and has_ended(known) and self._is_following:
            return
        page = await self._client.get(_path(id))
        children = page.pop("tasks", [])
        for child in children:
            self._known[child["task_id"]] = child
            if child["children"]:
                await self._look(child["task_id"])
        self._known[id] = _task_alone(page)

    def _descendants(self, id: str) -> list[View]:
        view = self._known.get(id)
        return [] if view is None else [view, *(part for child in view["children"] for part in self._descendants(child))]


def _path(id: str) -> str:
    return f"/api/v1/tasks/{segment(id)}"


def _without_ok(answer: Any) -> View:
    return {name: value for name, value in answer.items() if name != "ok"}


def _task_alone(page: View) -> View:
    return {name: value for name, value in page.items() if name not in ("ok", "tasks", "spec")}


def _together(prepared: Prepared, warnings: list[str], answer: View) -> list[str]:
    """What was found here, and what only the API knows: it read the same text."""
    own = [*(str(warning) for warning in prepared.warnings), *warnings]
    return own + [said for said in answer["warnings"] if not any(_POSITION.sub("", said) in one for one in own)]
