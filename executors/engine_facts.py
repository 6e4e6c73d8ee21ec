"""What a task's engine is known by (its key) and made of (its files)."""

from __future__ import annotations

from typing import Any

import msgspec

from mloc.core.host_frames import RunTask
from mloc.core.language.content_parts import images_in
from mloc.core.needs.engine_key import TRAINING_LIBRARIES, engine_key


class _Hardware(msgspec.Struct):
    gpu: dict[str, Any] | None = None


class _Resources(msgspec.Struct):
    hardware: _Hardware = msgspec.field(default_factory=_Hardware)


class _Spec(msgspec.Struct):
    data: dict[str, Any] = {}
    resources: _Resources = msgspec.field(default_factory=_Resources)


def engine_key_of(task: RunTask) -> str:
    """The key under which placement would find the task's engine."""
    return engine_key(task.task_type, task.spec, {stage: of["task_id"] for stage, of in task.inputs.items()})


def identity_of(task: RunTask, key: str) -> str:
    """What its engine is made of, where the key and the fetched files say all."""
    return f"{key}\n{_model_files(task) if key != TRAINING_LIBRARIES else ''}"


def states_device_memory(task: RunTask) -> bool:
    """Whether placement keeps room for its engine on the device, beside what others run there."""
    return bool((msgspec.json.decode(task.spec, type=_Spec).resources.hardware.gpu or {}).get("memory"))


def _model_files(task: RunTask) -> str:
    """What was fetched for the task, but its rows and their images: the same files make the same engine."""
    if not task.fetched:
        return ""
    rows = msgspec.json.decode(task.spec, type=_Spec).data
    of_rows = {rows.get("path"), rows.get("url"), rows.get("identifier"), *(image.removeprefix("file://") for image in _images(rows))}
    return "\n".join(sorted(path for named, path in task.fetched.items() if named not in of_rows))


def _images(rows: dict[str, Any]) -> list[str]:
    return [image for name in ("items", "messages") for _, image in images_in(rows.get(name))]
