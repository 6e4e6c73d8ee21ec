"""What a well-formed spec can still get wrong: things that are missing together, or that contradict each other."""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec

from mloc.core.language.data_spec import DatasetData, GraphTemplateData, JsonlData, ListData, MessagesData, PreferencesData
from mloc.core.language.errors import did_you_mean, shown
from mloc.core.language.findings import Findings
from mloc.core.language.graph_template import check_template
from mloc.core.language.model_spec import ScratchSource, StageSource
from mloc.core.language.spec import TaskSpec
from mloc.core.language.task_types import KNOWN, NEED_ROWS


def with_effective_type(spec: TaskSpec) -> TaskSpec:
    """`sft` with an adapter is the task type of that adapter: executors and placement see only what is done."""
    adapter = spec.model.adapter
    if adapter is None or spec.task_type not in {"sft", "lora_sft"}:
        return spec
    task_type = "qlora" if adapter.type == "qlora" else "lora_sft"
    return spec if task_type == spec.task_type else msgspec.structs.replace(spec, task_type=task_type)


def check_meaning(spec: TaskSpec, findings: Findings, plugin_types: frozenset[str] = frozenset()) -> None:
    """Note what is wrong or doubtful in a spec that has the right shape. Paths are in the Structs' names."""
    _check_type(spec, findings, plugin_types)
    _check_source(spec, findings)
    _check_data(spec, findings)
    _check_output(spec, findings)
    for at, adapter in enumerate(spec.model.adapters):
        if not (adapter.path or adapter.url or adapter.task_id):
            findings.wrong(("model", "adapters", at), "says no place", accepted="path, url or taskId")
    load = spec.checkpoint.load
    if load is not None and not (load.path or load.url or load.task_id):
        findings.wrong(("checkpoint", "load"), "says no place", accepted="path, url or taskId")
    given = [name for name in ("json_schema", "regex", "choice") if getattr(spec.inference, name) is not None]
    if len(given) > 1:
        findings.wrong(("inference", given[1]), f"cannot be used together with {given[0]}", accepted="one of json_schema, regex, choice")


def _check_type(spec: TaskSpec, findings: Findings, plugin_types: frozenset[str]) -> None:
    task_type = spec.task_type
    if task_type in KNOWN or task_type in plugin_types:
        return
    known = sorted(KNOWN | plugin_types)
    hint = did_you_mean(task_type, known)
    if hint or not task_type:
        findings.wrong(("taskType",), "is not known", found=shown(task_type), accepted=", ".join(known), hint=hint)
    else:
        findings.warn(("taskType",), f"the type {shown(task_type)} is not known here", hint="it waits until a worker offers it", at_key=False)


def _check_source(spec: TaskSpec, findings: Findings) -> None:
    match spec.model.source:
        case None:
            return
        case StageSource() as source:
            if not (source.identifier or source.path or source.url or source.task_id):
                findings.wrong(("model", "source"), "names no stage", accepted="identifier: a stage's name, path, url or taskId")
        case ScratchSource() as source:
            if source.hidden_size % source.num_attention_heads and source.head_dim is None:
                findings.wrong(
                    ("model", "source", "num_attention_heads"), "does not divide hidden_size",
                    found=f"{source.hidden_size} / {source.num_attention_heads}", hint="choose sizes that divide, or set head_dim",
                )  # fmt: skip
            if source.num_key_value_heads and source.num_attention_heads % source.num_key_value_heads:
                findings.wrong(("model", "source", "num_key_value_heads"), "does not divide num_attention_heads")
        case source if not source.identifier:
            findings.wrong(("model", "source"), '"identifier" is missing', accepted="text: which model to load")


def _check_data(spec: TaskSpec, findings: Findings) -> None:
    deferred = any(one.path and one.path[0] == "data" for one in spec.deferred)
    match spec.data:
        case None:
            if spec.task_type in NEED_ROWS and not deferred:
                findings.wrong((), f"a task of type {spec.task_type} needs data", hint="add data: {type: list, items: […]}, or another form")
        case ListData(items=()) | PreferencesData(preferences=()) | MessagesData(messages=()) if not deferred:
            findings.wrong(("data",), "holds no rows")
        case ListData(items=items):
            for at, item in enumerate(items):
                if not isinstance(item, str | dict) or item == "":
                    findings.wrong(("data", "items", at), "is no row", found=shown(item), accepted="a text or a mapping")
        case PreferencesData(preferences=rows):
            for at, row in enumerate(rows):
                if missing := [name for name in ("prompt", "chosen", "rejected") if name not in row]:
                    findings.wrong(("data", "preferences", at), f"lacks {', '.join(missing)}", accepted="prompt, chosen, rejected")
        case MessagesData(messages=turns):
            _check_messages(turns, findings)
        case DatasetData(identifier=None, url=None, path=None):
            findings.wrong(("data",), "names no dataset", accepted="identifier, url or path")
        case JsonlData(path=None, url=None):
            findings.wrong(("data",), "names no file", accepted="path or url")
        case GraphTemplateData(template=template):
            check_template(template, findings)
        case _:
            return


def _check_messages(turns: tuple[object, ...], findings: Findings) -> None:
    for at, turn in enumerate(turns):
        for one in turn if isinstance(turn, list | tuple) else [turn]:
            if not isinstance(one, dict) or "role" not in one:
                findings.wrong(("data", "messages", at), "is no chat turn", found=shown(one), accepted="{role, content}")


def _check_output(spec: TaskSpec, findings: Findings) -> None:
    for at, name in enumerate(spec.output.artifacts):
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            findings.wrong(("output", "artifacts", at), "leads out of the task's folder", found=shown(name))
    destination = spec.output.destination
    if destination is None:
        return
    if destination.type == "http" and not destination.url:
        findings.wrong(("output", "destination"), '"url" is missing', accepted="text: where the result is sent")
    if destination.path and ".." in PurePosixPath(destination.path).parts:
        findings.wrong(("output", "destination", "path"), "leads out of the results folder", found=shown(destination.path))


