"""A task as rows: where it stands in each order, what it is filtered by, and its whole value.

`rank` is the order of submission, and the key of every table. It is unique: a shard has its parent's order and an index of its own.
`place` is the phase and whether the task is part of another one, in one number, so that one index answers for both.
"""

from __future__ import annotations

import msgspec

from mloc.core.task import Task

PHASES = (
    "waiting", "ready", "backoff", "dispatched", "running", "succeeded", "published",
    "failed", "lost", "orphaned", "dead_lettered", "cancelled", "timed_out",
)  # fmt: skip
_CODE = {phase: code * 2 for code, phase in enumerate(PHASES)}
_SHARD_BITS = 20

encode_task = msgspec.msgpack.Encoder().encode
decode_task = msgspec.msgpack.Decoder(Task).decode


def rank(task: Task) -> int:
    return task.order << _SHARD_BITS | (task.shard[0] + 1 if task.shard else 0)


def place(task: Task) -> int:
    return _CODE[task.phase] | (1 if task.parent else 0)


def places(phases: frozenset[str] | None, *, roots_only: bool) -> tuple[int, ...] | None:
    """The places of tasks in these phases (None: all); None where every place will do."""
    if phases is None and not roots_only:
        return None
    codes = [_CODE[phase] for phase in PHASES if phases is None or phase in phases]
    return tuple(codes) if roots_only else tuple(sorted([*codes, *(code | 1 for code in codes)]))


def kind_of(task: Task) -> tuple[str, str]:
    """What `kind=` is compared with: the kind, without regard to case, and the task type."""
    return task.kind.lower(), task.task_type


def label_word(name: str, value: str) -> str:
    """A label as a word of its own, which no owner or worker can be called."""
    return f"={name}={value}"
