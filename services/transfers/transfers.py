"""A worker's transfers around an attempt: what it needs is fetched before, what it gave is where others can read it before they are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.core.host_frames import RunTask, Succeeded
from mloc.core.language.task_types import TRAINING
from mloc.services.artifacts.archive_streams import ArchiveRefused
from mloc.services.callbacks.hosts import ANYWHERE, AllowedHosts
from mloc.services.clock import Clock
from mloc.services.log.event_log import LogUnavailable, ServerChanged
from mloc.services.results.folders import ARTIFACTS, RESULT_FILE
from mloc.services.results.results_mark import SharedFolder
from mloc.services.transfers.attempt_files import AttemptFiles
from mloc.services.transfers.clearing import keep_clear, mark
from mloc.services.transfers.destination_upload import TIMEOUT_SEC, HttpDestination, send_artifacts
from mloc.services.transfers.final_archives import Delivered, UrlOf, add_archives, add_to_result, files_to_deliver, forget_folder
from mloc.services.transfers.input_fetching import InputFetcher
from mloc.services.transfers.progress_uploads import ProgressUploads, Put
from mloc.services.transfers.remote_files import Say
from mloc.services.transfers.resuming import Resuming
from mloc.services.transfers.transfer_errors import TransferError

PAUSE_SEC = 0.5
NO_WAY = (
    "this worker's RESULTS_DIR ({folder}) is not the aggregator's, and it has no ORCHESTRATOR_BASE_URL to deliver files to: share the folder, "
    "or set that URL; only results up to 64 KiB can be had from it"
)


class Transfers:
    """One worker's. `files` is the way to the API, None where no address is set."""

    def __init__(
        self, results_dir: Path, shared: SharedFolder, inputs: InputFetcher, files: AttemptFiles | None, clock: Clock, hosts: AllowedHosts = ANYWHERE
    ) -> None:
        """`hosts`: where tasks may have their artifacts sent."""
        self._hosts = hosts
        self._results_dir = results_dir
        self._resuming = Resuming(results_dir, inputs.remote)
        self._apart: set[tuple[str, int]] = set()  # attempts that began when the folder was not shared
        self._shared = shared
        self._inputs = inputs
        self._files = files
        self._clock = clock

    async def fetch(self, frame: RunTask, say: Say) -> RunTask:
        """The frame with what its spec names elsewhere on this disk. Raises TransferError."""
        is_shared = await self.is_shared()
        if not is_shared and self._files is None and (frame.task_type in TRAINING or _output_of(frame).artifacts):
            raise TransferError(self.no_way)
        key = (frame.task, frame.attempt)
        here = await self._inputs.fetch(key, frame.spec, frame.inputs, say, is_shared=is_shared)
        if here.fetched or here.inputs != frame.inputs:
            frame = msgspec.structs.replace(frame, fetched=here.fetched, inputs=here.inputs)
        try:
            if not is_shared:
                self._apart.add(key)
                await asyncio.to_thread(mark, self._results_dir, frame.task)
            return await self._resuming.bring(frame, say, is_shared=is_shared)
        except OSError as error:
            raise TransferError(f"the folder of the attempt cannot be made ready: {error}", retryable=True) from error

    def progress_uploads(self, frame: RunTask, say: Say, put: Put) -> ProgressUploads | None:
        """For an attempt that was just fetched for; None where others see its rows and checkpoints as they are."""
        if (frame.task, frame.attempt) not in self._apart or self._files is None:
            return None
        return ProgressUploads(frame, self._files, say, put, self._clock)

    async def result_file(self, task: str) -> Path | None:
        """A copy of a published task's `responses.json`; None where there is no way to it. Raises TransferError."""
        return await self._inputs.result_file(task)

    async def deliver(self, frame: RunTask, ended: Succeeded, say: Say) -> Succeeded:
        """A success whose files others can read. Raises TransferError."""
        if not ended.files:
            return ended
        folder, is_shared = Path(frame.folder), await self.is_shared()
        if not is_shared and self._files is None:
            raise TransferError(self.no_way)
        output = _output_of(frame)
        to = _http_destination(output)
        try:
            declared, always = output.artifacts, to is not None or not is_shared
            there = "" if is_shared else self._place_there(frame)
            added = asyncio.to_thread(add_archives, folder, frame.final_folder, declared, self._url_of(frame.task, to), always=always, there=there)
            ended = _changed(ended, await added)
            if to is not None and not (self._files is not None and to.url.startswith(self._files.api.base + "/")):
                missed = await send_artifacts(to, frame.task, folder, say, self._clock, self._hosts)
                if missed:
                    ended = _changed(ended, await asyncio.to_thread(add_to_result, folder, {"artifacts_not_sent": msgspec.to_builtins(missed)}))
            if not is_shared and self._files is not None:
                await self._files.put_all(frame.task, frame.attempt, await asyncio.to_thread(files_to_deliver, folder), say)
                await asyncio.to_thread(forget_folder, folder.parent)
        except (OSError, ArchiveRefused) as error:
            raise TransferError(f"the result's files cannot be delivered: {error}", retryable=True) from error
        except msgspec.MsgspecError as error:
            raise TransferError(f"{RESULT_FILE} of the attempt is no JSON object: {error}") from error
        return ended

    def _place_there(self, frame: RunTask) -> str:
        """Where the result will lie as the aggregator sees it; empty where that is not known."""
        there = self._shared.there
        return f"{there}/{Path(frame.final_folder).relative_to(self._results_dir)}" if there else ""

    def _url_of(self, task: str, to: HttpDestination | None) -> UrlOf | None:
        """Where a file of the result can be had over HTTP: at the API, else where the task has its artifacts sent."""
        if self._files is not None:
            api = self._files.api
            return lambda name: api.file(task, name)
        return None if to is None else lambda name: to.file(task, name.removeprefix(f"{ARTIFACTS}/"))

    def release(self, key: tuple[str, int]) -> None:
        """The attempt is over."""
        self._inputs.release(key)
        self._apart.discard(key)

    async def keep_clear(self) -> None:
        """For ever: remove what attempts of long ago left, where nobody else sees it."""
        await keep_clear(self._results_dir, self._clock, lambda: {task for task, _ in tuple(self._apart)})

    @property
    def no_way(self) -> str:
        return NO_WAY.format(folder=self._results_dir)

    async def is_cut_off(self) -> bool:
        """Whether nothing larger than an event can leave this worker. Raises LogError."""
        return self._files is None and not await self._shared.is_shared()

    async def is_shared(self) -> bool:
        """Whether the aggregator's results folder is this worker's; waits for a log that cannot be reached."""
        while True:
            try:
                return await self._shared.is_shared()
            except (LogUnavailable, ServerChanged):
                await self._clock.sleep(PAUSE_SEC)

    async def close(self) -> None:
        await self._inputs.close()
        if self._files is not None:
            await self._files.close()


class _Destination(Struct, frozen=True, rename={"timeout_sec": "timeoutSec"}):
    type: str = "local"
    url: str | None = None
    method: str = "POST"
    headers: dict[str, str] = {}
    timeout_sec: float | None = None


class _Output(Struct, frozen=True):
    destination: _Destination | None = None
    artifacts: tuple[str, ...] = ()


class _Spec(Struct, frozen=True):
    output: _Output = _Output()


def _http_destination(output: _Output) -> HttpDestination | None:
    asked = output.destination
    if asked is None or asked.type != "http" or not asked.url:
        return None
    return HttpDestination(asked.url, asked.method, asked.headers, asked.timeout_sec or TIMEOUT_SEC)


def _changed(ended: Succeeded, now: Delivered | None) -> Succeeded:
    """The success as its result stands in the folder now."""
    return ended if now is None else msgspec.structs.replace(ended, result=b"", sha256=now.sha256, size_bytes=now.size_bytes)


def _output_of(frame: RunTask) -> _Output:
    return msgspec.json.decode(frame.spec, type=_Spec).output if b'"output"' in frame.spec else _Output()
