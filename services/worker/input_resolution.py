"""From a dispatch to what the host gets: results of dependencies fetched, references in the spec resolved, folders named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.answers import Dispatch, InputRef
from mloc.core.events import AttemptSucceeded, ResultPublished
from mloc.core.host_frames import RunTask
from mloc.services.clock import Clock
from mloc.services.event_log import EventLog, LogUnavailable, ServerChanged
from mloc.services.worker.attempt import Attempt

ATTEMPTS_FOLDER = ".attempts"
RESULT_FILE = "responses.json"
PAUSE_SEC = 0.5

_decode_json = msgspec.json.Decoder().decode


class ResolutionError(Exception):
    """The task's inputs are not there; the message names what is missing. `retryable`: may be there later, or on another worker."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class InputResolver:
    """`results_dir` is the folder of published results; `variables` are the values that `${NAME}` may take on this worker."""

    def __init__(self, log: EventLog, clock: Clock, results_dir: Path, variables: Mapping[str, str]) -> None:
        self._log = log
        self._clock = clock
        self._results_dir = results_dir
        self._root = str(results_dir)
        self._variables = variables

    @staticmethod
    def is_plain(dispatch: Dispatch) -> bool:
        """Whether the spec can go to the host as it is."""
        return not dispatch.inputs and not dispatch.secrets_task and b"${" not in memoryview(dispatch.spec).tobytes()

    def plain(self, attempt: Attempt) -> RunTask:
        return self._frame(attempt, bytes(attempt.dispatch.spec), {})

    async def resolve(self, attempt: Attempt) -> RunTask:
        """Raises ResolutionError. Sets the attempt's secrets before anything else can fail."""
        dispatch = attempt.dispatch
        if self.is_plain(dispatch):
            return self.plain(attempt)
        return self._frame(attempt, bytes(dispatch.spec), {})

    def _frame(self, attempt: Attempt, spec: bytes, inputs: dict[str, Any]) -> RunTask:
        dispatch = attempt.dispatch
        task, number = attempt.key
        folders = f"{self._root}/{ATTEMPTS_FOLDER}/{task}/"
        return RunTask(
            task, number, dispatch.task_type, spec, f"{folders}{number}", f"{self._root}/{task}", f"{folders}rows",
            dispatch.shard, inputs, attempt.devices, dispatch.checkpoint,
        )  # fmt: skip
