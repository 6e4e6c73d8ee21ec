"""The commands' source on the machine of the event log: a fold of it, and the folder of results."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from mloc.core.explain import explain, explain_submission
from mloc.core.task import Task
from mloc.services.clock import SystemClock
from mloc.services.durable_files import staged
from mloc.services.intake import task_requests
from mloc.services.intake.commands.log_session import Session, user
from mloc.services.intake.commands.source import Accepted, MaybeTaken, Prepared, View
from mloc.services.intake.destinations import destination_warnings
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.published_results import is_over, large_result, log_text, read_result, result_file, result_folder
from mloc.services.intake.submission import ModelDefaults, Submission, submission_of, unoffered_types
from mloc.services.intake.submitter import Submitter
from mloc.services.intake.task_names import UnknownTask
from mloc.services.intake.task_query import parse_query
from mloc.services.intake.views import accepted_view, iso, repeated_view, task_page, task_view
from mloc.services.log.event_log import LogUnavailable
from mloc.services.read_model.reader import Unreadable
from mloc.services.read_model.statistics import period, spans, statistics
from mloc.services.results.folders import MANIFEST_FILE, final_folder, is_tree_complete

LOOK_AT_WORKERS_SEC = 1.0  # a long log is not folded just to warn
TREE_PATIENCE_SEC = 10.0


class LogSource:
    """Folds the log when a command first asks what is in it: submitting need not wait for a long one."""

    again = ""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._submitter = Submitter(session.log, SystemClock(), session.settings.backlog_limit)

    @property
    def trouble(self) -> str:
        return self._session.observer.trouble

    async def submit(self, prepared: Prepared, key: str) -> Accepted:
        session = self._session
        await session.log.run_id()  # a log that cannot be reached has taken nothing
        submission, warnings = await self._submission(prepared, key, patient=False)
        try:
            submitted = await self._submitter.submit(submission, session.cluster.open_count() if session.observer.caught_up else 0)
        except LogUnavailable as error:
            raise MaybeTaken(str(error)) from error
        if submitted.repeated:
            await session.observer.catch_up()
            known = [task for id in submitted.tasks if (task := session.cluster.tasks.get(id))]
            return Accepted([msgspec.to_builtins(repeated_view(session.cluster, task)) for task in known], warnings, repeated=True)
        return Accepted([msgspec.to_builtins(accepted_view(event)) for event in submission.events], warnings)

    async def dry_run(self, prepared: Prepared) -> View:
        submission, warnings = await self._submission(prepared, "", patient=True)
        cluster = self._session.cluster
        tasks = [
            {
                "name": event.name, "task_type": event.task_type or "pipeline",
                "placement": msgspec.to_builtins(explain_submission(cluster, event)),
            }
            for event in submission.events
        ]  # fmt: skip
        return {"tasks": tasks, "warnings": warnings}

    async def _submission(self, prepared: Prepared, key: str, *, patient: bool) -> tuple[Submission, list[str]]:
        session, settings = self._session, self._session.settings
        await self._look(patient or any(task.external for plan in prepared.plans for task in plan.tasks))
        submission = submission_of(
            prepared.plans, new_id=session.ids.new, known=KnownTasks(session.cluster, session.results_dir, session.index),
            defaults=ModelDefaults(settings.vllm_model or "", settings.ppo_model or ""),
            key=key, body_sha256=_digest(prepared) if key else "",
        )  # fmt: skip
        warnings = [str(warning) for warning in prepared.warnings]
        if session.results_dir.is_dir():  # else this machine knows nothing of the aggregator's folders
            warnings += destination_warnings(prepared.plans, session.results_dir, settings.allowed_output_roots)
        if session.observer.caught_up:
            warnings += unoffered_types(submission.events, session.cluster.workers.values())
        return submission, warnings

    async def _look(self, patient: bool) -> None:
        """Fold the log where the answer needs it; else only as far as a second goes, for the warning that no worker takes the type."""
        if patient:
            await self._session.observer.catch_up()
        elif not self._session.observer.caught_up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AT_WORKERS_SEC):
                    await self._session.observer.catch_up()

    # --- reading ---

    async def find(self, text: str) -> str:
        await self._session.observer.catch_up()
        return self._session.task(text).id

    async def page(self, fields: dict[str, str], labels: list[str]) -> View:
        await self._session.observer.catch_up()
        page = await self._session.index.find(parse_query(fields, labels, await self._session.log.now_ms()))
        tasks = [msgspec.to_builtins(task_view(self._session.cluster, task)) for task in page.tasks]
        return {
            "tasks": tasks, "total": page.total, "total_is_at_least": page.total_is_at_least, "next_cursor": page.next_cursor or None,
            "warnings": list(page.warnings),
        }  # fmt: skip

    async def task(self, id: str) -> View:
        session, task = self._session, self._task(id)
        parts = [part for id in task.children if (part := session.index.get(id)) is not None]
        page: View = msgspec.to_builtins(task_page(session.cluster, task, parts, await session.index.spec(task)))
        return page

    async def explanation(self, id: str) -> View:
        explained: View = msgspec.to_builtins(explain(self._session.cluster, self._task(id)))
        return explained

    async def lines(self, id: str, after: str) -> list[View]:
        points = await self._session.log.read_telemetry(id, after or "0-0")
        if not points and not after:  # telemetry expires; its lines were kept with the result
            return [{"line": line} for line in log_text(self._session.results_dir, self._task(id)).splitlines()]
        return [{"id": at, "at": iso(int(at.partition("-")[0])), **msgspec.to_builtins(point)} for at, point in points]

    async def result(self, id: str) -> bytes | None:
        task = self._task(id)
        if task.ttl_ms and is_over(task, await self.now_ms()):
            return None
        return await read_result(self._session.log, self._session.results_dir, task)

    async def large_result(self, id: str) -> str:
        large = large_result(self._session.results_dir, self._task(id))
        return str(large.resolve()) if large is not None else ""

    async def copy_result(self, id: str, to: BinaryIO) -> None:
        with Path(await self.large_result(id)).open("rb") as stored:
            await asyncio.to_thread(shutil.copyfileobj, stored, to, 1 << 20)

    async def manifest(self, id: str) -> View | None:
        task = self._task(id)
        if not is_tree_complete(self._session.results_dir, task):
            return None
        text = (self._session.results_dir / final_folder(id, is_shard=task.shard is not None) / MANIFEST_FILE).read_bytes()
        manifest: View = msgspec.json.decode(text)
        return manifest

    async def save_file(self, id: str, name: str, to: Path) -> None:
        file = result_file(self._session.results_dir, self._task(id).id, name)
        if file is None:
            raise UnknownTask(f"the result of {id} has no file {name!r}; `mloc-intake result {id} --files` lists what it has")
        with staged(to) as partial:
            await asyncio.to_thread(shutil.copyfile, file, partial)

    async def workers(self) -> list[View]:
        await self._session.observer.catch_up()
        return [{"worker_id": worker.id, "cost_per_hour": worker.cost_per_hour} for worker in self._session.cluster.workers.values()]

    async def statistics(self, owner: str, start: str) -> View:
        of = period(start, "")
        try:
            _, found = await self._session.index.sums(tuple(spans(of)), owner, by_owner=not owner)
        except Unreadable as error:
            return {"missing": str(error)}
        shown: View = msgspec.to_builtins(statistics(found))
        return {**shown, "start": iso(of.start_ms)}

    async def now_ms(self) -> int:
        return await self._session.log.now_ms()

    def _task(self, id: str) -> Task:
        return self._session.task(id)

    # --- asking ---

    async def ask(self, what: str, id: str, reason: str) -> View:
        task = self._task(id)
        event = task_requests.cancel(task, user(), reason) if what == "cancel" else task_requests.retry(task, user())
        submitted = await self._submitter.request(event)
        return {"state": task.phase, "event_id": submitted.last_id}

    # --- following ---

    @contextlib.asynccontextmanager
    async def following(self, *, with_logs: bool = False) -> AsyncIterator[None]:
        following = asyncio.create_task(self._session.observer.follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def family(self, ids: list[str]) -> list[View]:
        return [msgspec.to_builtins(task_view(self._session.cluster, task)) for task in self._family(ids)]

    async def moved(self, timeout_sec: float) -> None:
        await self._session.observer.moved(timeout_sec)

    async def settle(self, ids: list[str]) -> None:
        """A result's tree follows its publication; a folder that this machine does not see is not waited for."""
        folder = self._session.results_dir
        if not folder.is_dir():
            return
        ended = [task for task in self._family(ids) if task.phase == "published" and not task.shard]  # a shard's is in its parent's
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TREE_PATIENCE_SEC):
                while not all(is_tree_complete(folder, task) for task in ended):
                    await asyncio.sleep(0.01)

    def place(self, id: str) -> str:
        folder, task = self._session.results_dir, self._session.index.get(id)
        if task is None or not folder.is_dir():
            return ""
        if not is_tree_complete(folder, task):
            return f"its files are not in {folder.resolve()} yet, and the aggregator's log says why: mloc-intake result {id}"
        return str(result_folder(folder, id).resolve())

    def _family(self, ids: list[str]) -> list[Task]:
        roots = (self._session.index.get(id) for id in ids)
        return [part for root in roots if root is not None for part in self._session.family(root)]


def _digest(prepared: Prepared) -> str:
    """Of what makes the body: the text, and the values that were put over it."""
    body: Any = hashlib.sha256(prepared.file.text)
    if prepared.overrides:
        body.update(msgspec.json.encode(prepared.overrides, order="sorted"))
    return str(body.hexdigest())
