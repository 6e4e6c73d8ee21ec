"""`spec.echo`: how an echo task misbehaves on purpose, so that retries, time-outs, cancels and crashes can be tried for real."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mloc.core.events import INLINE_RESULT_BYTES
from mloc.core.language.data_spec import GraphTemplateData, ListData, MessagesData, PreferencesData
from mloc.core.language.section import NonNegativeInt, Seconds, Section, about

if TYPE_CHECKING:
    from mloc.core.language.spec import TaskSpec

_HEAD_BYTES, _ROW_BYTES = 1024, 128  # of a result beside its items, at most


class Echo(Section, frozen=True):
    """What an echo task does before it echoes.

    `sleep_sec` works for so long, in steps, and a stop ends it at the next step unless `ignore_stop`. `row_sleep_sec` works so long on each row,
    and records it as a model's answer is recorded: a later attempt does only the rows that are missing. `fail` fails with that message, `crash`
    takes the host process down as a bug in a native library would. Both happen in the first `fail_times` attempts; 0: in all of them.
    """

    sleep_sec: Annotated[Seconds, about("work for so long first")] = 0.0
    row_sleep_sec: Annotated[Seconds, about("work so long on each row")] = 0.0
    ignore_stop: Annotated[bool, about("do not end when asked to")] = False
    fail: Annotated[str, about("fail with this message")] = ""
    fail_times: Annotated[NonNegativeInt, about("only in the first so many attempts; 0: in all")] = 0
    retryable: Annotated[bool, about("whether its failure may be tried again")] = True
    crash: Annotated[bool, about("take the host process down")] = False


def is_light(spec: TaskSpec) -> bool:
    """Whether the task takes milliseconds and needs no host of its own: an echo that neither sleeps, crashes, reads a file nor writes one, and
    whose result fits into an event."""
    if spec.task_type != "echo" or spec.echo.sleep_sec or spec.echo.row_sleep_sec or spec.echo.crash or spec.postprocess.jsonl_export:
        return False
    match spec.data:
        case ListData(items=items) | MessagesData(messages=items) | PreferencesData(preferences=items):
            return _fits(items)
        case None | GraphTemplateData():
            return True
    return False


def _fits(items: Iterable[Any]) -> bool:
    """A row holds its item as the prompt, its text as the output, and its metadata."""
    left = INLINE_RESULT_BYTES - _HEAD_BYTES
    for item in items:
        left -= _ROW_BYTES + 3 * len(msgspec.json.encode(item))
        if left < 0:
            return False
    return True
