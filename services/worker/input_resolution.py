"""From a dispatch to what the host gets: results of dependencies fetched, references in the spec resolved, folders named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mloc.core import codec
from mloc.core.answers import Dispatch, InputRef
from mloc.core.events import AttemptSucceeded, ResultPublished
from mloc.core.host_frames import RunTask
from mloc.core.language.errors import LanguageError
from mloc.core.language.resolution import has_references, resolve_encoded
from mloc.core.needs.seed import seed_of
from mloc.services.clock import Clock
from mloc.services.log.event_log import EventLog, LogUnavailable, ServerChanged
from mloc.services.results.folders import ATTEMPTS, CACHE, RESULT_FILE, final_folder
from mloc.services.results.row_lines import is_row_lines, without_rows
from mloc.services.worker.attempt import Attempt
from mloc.services.worker.scrubbing import secrets_worth_hiding

PAUSE_SEC = 0.5

Answer = TypeVar("Answer")

_decode_json = msgspec.json.Decoder().decode


class ResolutionError(Exception):
    """The task's inputs are not there; the message names what is missing. `retryable`: may be there later, or on another worker."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class InputResolver:
    """`results_dir` is the folder of published results; `variables` are the values that `${NAME}` may take on this worker.

    `log` is a client of its own: looking at entries through the worker's would hide from it that the server is another one.
    """

    def __init__(
        self, log: EventLog, clock: Clock, results_dir: Path, variables: Mapping[str, str],
        elsewhere: Callable[[str], Awaitable[Path | None]] | None = None,
    ) -> None:  # fmt: skip
        """`elsewhere` gives a copy of the result of a task that is not in `results_dir`, or None; it raises TransferError."""
        self._log = log
        self._clock = clock
        self._results_dir = results_dir
        self._root = str(results_dir)
        self._variables = variables
        self._elsewhere = elsewhere

    @staticmethod
    def is_plain(dispatch: Dispatch) -> bool:
        """Whether the spec can go to the host as it is, its bytes untouched."""
        return not dispatch.inputs and not has_references(bytes(dispatch.spec))

    def plain(self, attempt: Attempt) -> RunTask:
        return self._frame(attempt, bytes(attempt.dispatch.spec), {})

    async def resolve(self, attempt: Attempt) -> RunTask:
        """What the host gets. Raises ResolutionError; sets the attempt's secrets before that, so that no message shows one."""
        dispatch = attempt.dispatch
        spec = bytes(dispatch.spec)
        needs_items = b"items" in spec or b"graph_template" in spec
        inputs = {name: await self._input(name, reference, needs_items) for name, reference in dispatch.inputs.items()}
        if has_references(spec):
            secrets = await self._secrets(dispatch.secrets_task) if b"${secret." in spec else {}
            used = _Used(self._variables)
            try:
                spec = resolve_encoded(spec, inputs, used, secrets)
            except LanguageError as error:
                raise ResolutionError(str(error)) from error
            except msgspec.ValidationError as error:
                raise ResolutionError(f"this worker cannot read the task's spec ({error}): is it older than the intake?", retryable=True) from error
            finally:
                attempt.secrets = secrets_worth_hiding([*secrets.values(), *used.seen.values()])
        return self._frame(attempt, spec, inputs)

    def _frame(self, attempt: Attempt, spec: bytes, inputs: dict[str, Any]) -> RunTask:
        dispatch = attempt.dispatch
        task, number = attempt.key
        folders = f"{self._root}/{ATTEMPTS}/{task}/"
        return RunTask(
            task, number, dispatch.task_type, spec, f"{folders}{number}",
            f"{self._root}/{final_folder(task, is_shard=dispatch.shard is not None)}", f"{folders}rows",
            dispatch.shard, inputs, attempt.devices, dispatch.checkpoint, seed_of(task),
            cache_folder="" if dispatch.light else f"{self._root}/{CACHE}",
        )  # fmt: skip

    async def _input(self, name: str, reference: InputRef, needs_items: bool) -> dict[str, Any]:
        """One dependency as references see it: its task, the folder of its published result, the result itself."""
        result = await self._logged_result(reference) if reference.inline and reference.result_id else b""
        try:
            if not result:
                result = await self._published_result(name, reference, needs_items)
            return {"task_id": reference.task, "folder": f"{self._root}/{reference.task}", "result": _decode_json(result)}
        except msgspec.DecodeError as error:
            raise ResolutionError(f"the result of {name} (task {reference.task}) is no JSON: {error}") from error

    async def _logged_result(self, reference: InputRef) -> bytes:
        """The result inside its log entry; empty where the entry was trimmed or holds none."""
        entry = await self._patiently(lambda: self._log.entry(reference.result_id))
        event = codec.decode(entry.type, entry.payload) if entry is not None else None
        return bytes(event.result) if isinstance(event, AttemptSucceeded | ResultPublished) else b""

    async def _published_result(self, name: str, reference: InputRef, needs_items: bool) -> bytes:
        path = self._results_dir / reference.task / RESULT_FILE
        if not path.is_file() and self._elsewhere is not None:
            path = await self._elsewhere(reference.task) or path
        try:
            if not needs_items and is_row_lines(path):  # a million rows that nobody refers to
                return msgspec.json.encode(without_rows(path))
            return path.read_bytes()
        except OSError as error:
            raise ResolutionError(
                f"the result of {name} (task {reference.task}) cannot be read at {path} ({error.strerror}): "
                "do this worker and the aggregator share RESULTS_DIR?", retryable=True,
            ) from error  # fmt: skip

    async def _secrets(self, task: str) -> dict[str, str]:
        return await self._patiently(lambda: self._log.secrets(task)) if task else {}

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The attempt has started: it waits for a log that cannot be reached."""
        while True:
            try:
                return await ask()
            except (LogUnavailable, ServerChanged):
                await self._clock.sleep(PAUSE_SEC)


class _Used(dict[str, str]):
    """Variables, of which it remembers those that were read: what a task never saw need not be hidden in its reports."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(variables)
        self.seen: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        self.seen[name] = value = super().__getitem__(name)
        return value
