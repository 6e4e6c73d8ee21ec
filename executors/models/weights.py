"""Where a task's weights lie: a folder, a hub's repository, or what an earlier stage made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.model_spec import HttpSource, HuggingFaceSource, LocalSource, ScratchSource, StageSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.hub import watch_hub

ADAPTER_FILE = "adapter_config.json"
FINAL_MODEL, FINAL_LORA = "final_model", "final_lora"


class Weights(Struct, frozen=True):
    """A folder or a hub's repository with a whole model, and perhaps an adapter's folder that goes on top."""

    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    adapter: Path | None = None


def find_weights(spec: TaskSpec, context: Context) -> Weights:
    """What the task's `checkpoint.load`, else its `model.source` names. Raises ExecutorError where that is not there."""
    weights = _found(spec, context)
    if not Path(weights.model).is_dir():
        watch_hub()
    return weights


def _found(spec: TaskSpec, context: Context) -> Weights:
    load = spec.checkpoint.load
    if load is not None:
        folder = _first_there(load.path, load.task_id, load.url, context, "checkpoint.load")
        source = spec.model.source
        if source is None or isinstance(source, ScratchSource) or not (folder / ADAPTER_FILE).is_file():
            return weights_in(folder, context)
        base = _of_source(spec, context)  # an adapter goes on top of the model that the task names
        return replace(base, adapter=folder)
    return _of_source(spec, context)


def _of_source(spec: TaskSpec, context: Context) -> Weights:
    match spec.model.source:
        case HuggingFaceSource(identifier=identifier, revision=revision, trust_remote_code=trust):
            if identifier and Path(folder := context.local(identifier)).is_dir():
                return weights_in(Path(folder), context, trust)
            return Weights(_named(identifier), revision, trust)
        case LocalSource(identifier=identifier, trust_remote_code=trust):
            folder = Path(context.local(_named(identifier))).expanduser()
            if not folder.is_dir():
                raise ExecutorError("ModelNotFound", f"model.source.identifier: the folder {folder} is not on the worker's disk")
            return weights_in(folder, context, trust)
        case StageSource() as source:
            return weights_in(_stage_folder(source, context), context, source.trust_remote_code)
        case HttpSource(identifier=url, trust_remote_code=trust):
            return weights_in(Path(context.local(_named(url))), context, trust)
    raise ExecutorError("NoModel", "the task names no model; give it model.source with a type and an identifier")


def find_adapter(path: str | None, task_id: str | None, url: str | None, context: Context) -> Path:
    """The folder of a trained adapter that a task's `model.adapters` names."""
    folder = _first_there(path, task_id, url, context, "model.adapters")
    if not (folder / ADAPTER_FILE).is_file():
        raise ExecutorError("ModelNotFound", f"{folder} holds no adapter (no {ADAPTER_FILE}); a training of type lora_sft makes one in {FINAL_LORA}")
    return folder


def weights_in(folder: Path, context: Context, trust_remote_code: bool = False) -> Weights:
    """The weights in a folder: a model's, or an adapter's with the base that it was trained on."""
    if not (folder / ADAPTER_FILE).is_file():
        if not (folder / "config.json").is_file():
            raise ExecutorError("ModelNotFound", f"{folder} holds neither a model (config.json) nor an adapter ({ADAPTER_FILE})")
        return Weights(str(folder), trust_remote_code=trust_remote_code)
    base = msgspec.json.decode((folder / ADAPTER_FILE).read_bytes()).get("base_model_name_or_path") or ""
    if not base:
        raise ExecutorError("ModelNotFound", f"{folder / ADAPTER_FILE} does not say which model the adapter belongs to")
    if Path(base).is_absolute() and not Path(context.local(base)).is_dir():
        raise ExecutorError("ModelNotFound", f"the adapter in {folder} belongs to the model in {base}, which is not there any more")
    return Weights(context.local(base), trust_remote_code=trust_remote_code, adapter=folder)


def _stage_folder(source: StageSource, context: Context) -> Path:
    for name in filter(None, (source.path, source.url)):
        if Path(context.local(name)).is_dir():
            return Path(context.local(name))
    named = source.task_id or source.identifier
    if named in context.inputs or source.path is None:
        return _made_by(named, context.inputs)
    raise ExecutorError("ModelNotFound", f"model.source.path: {source.path} is not there")


def _first_there(path: str | None, task_id: str | None, url: str | None, context: Context, where: str) -> Path:
    for name in filter(None, (path, url)):
        if Path(folder := context.local(name).removeprefix("file://")).is_dir():
            return Path(folder)
    if task_id:
        return _made_by(task_id, context.inputs)
    missing = f"{path or url} is not there" if path or url else "none of path, url and taskId is given"
    raise ExecutorError("ModelNotFound", f"{where}: {missing}")


def _made_by(named: str, inputs: Mapping[str, Any]) -> Path:
    given = inputs.get(named) or next((given for given in inputs.values() if given["task_id"] == named), None)
    if given is None:
        raise ExecutorError("ModelNotFound", f"the task depends on no stage or task {named!r}; there are: {', '.join(inputs) or 'none'}")
    artifacts = Path(given["folder"]) / "artifacts"
    for name in (FINAL_LORA, FINAL_MODEL):
        if (artifacts / name).is_dir():
            return artifacts / name
    raise ExecutorError("ModelNotFound", f"{named} made no weights: there is neither {FINAL_MODEL} nor {FINAL_LORA} in {artifacts}")


def _named(identifier: str) -> str:
    if not identifier:
        raise ExecutorError("NoModel", "model.source has no identifier; give it the name or the folder of a model")
    return identifier
