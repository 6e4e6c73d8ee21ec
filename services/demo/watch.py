"""Follows one job from its submission to its end: the log's state of each part, and the curves that its telemetry tells."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator

from msgspec import Struct

from mloc.core.task import FINAL, Task
from mloc.services.clock import SystemClock
from mloc.services.demo.failure import DemoFailed
from mloc.services.intake.commands.log_session import Session
from mloc.services.intake.commands.submit import read_file
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.submission import ModelDefaults, submission_of
from mloc.services.intake.submitter import Submitter
from mloc.services.intake.task_file import read_template
from mloc.services.intake.task_requests import words
from mloc.services.log.event_log import LogError
from mloc.services.results.folders import is_tree_complete

REDRAW_SEC = 0.2
TREES_PATIENCE_SEC = 20.0


class Readings(Struct):
    """What a part's telemetry has told so far. `attempt` is the one that the numbers are of."""

    attempt: int = 0
    losses: list[float] = []
    step: int = 0
    total_steps: int = 0
    tokens_per_sec: float = 0.0
    line: str = ""  # the newest one
    after: str = "0-0"


async def submit_template(session: Session, name: str) -> str:
    """The same way as `mloc-intake submit --template`; gives the job's id. Raises LanguageError, LogError."""
    plans, _ = read_file(read_template(name), {})
    known = KnownTasks(session.cluster, session.results_dir, session.index)
    submission = submission_of(plans, new_id=session.ids.new, known=known, defaults=ModelDefaults())
    await Submitter(session.log, SystemClock(), session.settings.backlog_limit).submit(submission, session.cluster.open_count())
    return submission.roots[0].task


class Watch:
    """One job. `session.observer` must be following the log."""

    def __init__(self, session: Session, root: str) -> None:
        self.session = session
        self.root = root
        self.readings: dict[str, Readings] = {}

    @property
    def job(self) -> Task | None:
        """None until its submission was read back."""
        return self.session.cluster.tasks.get(self.root)

    def parts(self) -> list[Task]:
        """The job's stages and shards, each stage before its shards."""
        return self.session.family(self.job)[1:] if self.job is not None else []

    def leaves(self) -> Iterator[Task]:
        """Those that run by themselves."""
        return (part for part in self.parts() if not part.children)

    async def until(self, holds: Callable[[], bool], look: Callable[[], None], timeout_sec: float) -> None:
        """Calls `look` at every change and now and then, until `holds`. Raises DemoFailed where that is not in time or can never be."""
        try:
            async with asyncio.timeout(timeout_sec):
                while not holds():
                    if self._has_ended():
                        raise DemoFailed(f"{self.root} ended too soon: {self._what_is_open()}")
                    await self._read_telemetry()
                    look()
                    await self.session.observer.moved(REDRAW_SEC)
        except TimeoutError as error:
            raise DemoFailed(f"{self.root} is not there yet after {timeout_sec:.0f} s: {self._what_is_open()}") from error

    async def until_ended(self, look: Callable[[], None], timeout_sec: float) -> None:
        """Raises DemoFailed where the job does not succeed, or not in time."""
        await self.until(self._has_ended, look, timeout_sec)
        await self._read_telemetry()
        look()
        job = self.job
        if job is None or job.phase != "published":
            raise DemoFailed(f"{self.root} did not succeed: {self._what_is_open()}")

    async def until_written(self) -> None:
        """Until every result's tree is whole on disk. Raises DemoFailed."""
        folder = self.session.results_dir
        missing: list[Task] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TREES_PATIENCE_SEC):
                while missing := [task for task in self.session.family(self._known_job()) if not task.shard and not is_tree_complete(folder, task)]:
                    await asyncio.sleep(0.02)
        if missing:
            raise DemoFailed(f"the result of {missing[0].id} is published and not complete in {folder}")

    def _known_job(self) -> Task:
        assert self.job is not None
        return self.job

    def _has_ended(self) -> bool:
        job = self.job
        return job is not None and (job.phase in FINAL or job.phase == "dead_lettered")

    def _what_is_open(self) -> str:
        wrong = [part for part in self.parts() if part.phase != "published"]
        wrong.sort(key=lambda part: (part.error is None, part.phase == "waiting", part.id))
        said = [f"{part.id} is {words(part.phase)}" + (f" ({part.reason})" if part.reason else "") for part in wrong[:3]]
        return "; ".join(said) or ("all its parts are done" if self.job else "its submission has not come back from the log")

    async def _read_telemetry(self) -> None:
        with contextlib.suppress(LogError):  # telemetry is worth no failure
            for part in self.leaves():
                if part.tries and (part.phase in ("running", "succeeded", "published") or part.id in self.readings):
                    await self._read_one(self.readings.setdefault(part.id, Readings()), part.id)

    async def _read_one(self, seen: Readings, task: str) -> None:
        for id, point in await self.session.log.read_telemetry(task, seen.after):
            seen.after = id
            if point.attempt != seen.attempt:
                seen.attempt, seen.losses = point.attempt, []
            seen.line = point.line or seen.line
            seen.step, seen.total_steps = point.step or seen.step, point.total_steps or seen.total_steps
            seen.tokens_per_sec = point.metrics.get("tokens_per_sec", seen.tokens_per_sec)
            if math.isfinite(loss := point.metrics.get("loss", math.nan)):
                seen.losses.append(loss)
