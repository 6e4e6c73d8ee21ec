"""What a well-formed spec can still get wrong: things that are missing together, or that contradict each other."""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec

from mloc.core.language.agent_rules import check_tools
from mloc.core.language.answer_schemas import check_schema
from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings
from mloc.core.language.inference_spec import Inference
from mloc.core.language.model_spec import ScratchSource, StageSource
from mloc.core.language.row_rules import check_export, check_rows
from mloc.core.language.spec import TaskSpec
from mloc.core.language.splitting import why_as_one
from mloc.core.language.task_types import KNOWN, NEED_ROWS
from mloc.core.language.training_spec import Eval

_NO_INFERENCE = Inference()
_ONE_OF = ("json_schema", "regex", "choice", "structured_outputs")
_REWARD_NEEDS = {
    "regex": ("pattern",), "json_schema": ("json_schema",), "length": ("min_length", "max_length", "target_length"), "python": ("code",),
    "model": ("model",),
}  # fmt: skip


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
    if spec.task_type == "rag":
        _check_retrieval(spec, findings)
    check_tools(spec.agent, findings)
    _check_output(spec, findings)
    for at, adapter in enumerate(spec.model.adapters):
        if not (adapter.path or adapter.url or adapter.task_id):
            findings.wrong(("model", "adapters", at), "does not say where it is", accepted="path, url or taskId")
    if spec.enforce_cpu and spec.inference.engine == "vllm":
        findings.wrong(("inference", "engine"), "contradicts enforce_cpu", found="vllm", accepted="enforce_cpu means transformers on the CPU")
    load = spec.checkpoint.load
    if load is not None and not (load.path or load.url or load.task_id):
        findings.wrong(("checkpoint", "load"), "does not say where it is", accepted="path, url or taskId")
    if spec.inference != _NO_INFERENCE:
        _check_sampling(spec.inference, findings)
    if spec.rewards:
        _check_rewards(spec, findings)
    if spec.eval is not None or spec.task_type == "eval":
        _check_eval(spec, findings)
    if spec.parallel is not None and spec.parallel.enabled and (why := why_as_one(spec)):
        findings.warn(("parallel",), f"has no effect, the task runs as one: {why}")
    if spec.postprocess.jsonl_export is not None:
        check_export(spec.postprocess.jsonl_export, findings)
    if spec.notify is not None:
        _check_url(spec.notify.url, ("notify", "url"), findings)


def _check_type(spec: TaskSpec, findings: Findings, plugin_types: frozenset[str]) -> None:
    task_type = spec.task_type
    resources = spec.resources
    gpu = resources.hardware.gpu.type if resources.hardware.gpu is not None else ""
    for path, texts in ((("taskType",), (task_type,)), (("resources", "tags"), resources.tags), (("dependsOn",), spec.depends_on),
                        (("resources", "hardware", "gpu", "type"), (gpu,))):  # fmt: skip
        for text in texts:
            if "${" in text:
                findings.wrong(path, "may not be a reference", found=shown(text), hint="it is needed before any stage has run")
    if "${" in task_type:
        return
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
    if spec.data is not None:
        check_rows(spec.data, findings, deferred)
    elif not deferred and spec.task_type in NEED_ROWS:
        findings.wrong((), f"a task of type {spec.task_type} needs data", hint="add data: {type: list, items: […]}, or another form")
    elif not deferred and spec.task_type == "agent" and not (spec.agent.get("task") or spec.agent.get("config_name")):
        findings.wrong((), "a task of type agent has nothing to do", hint="add task: a text, or data with several")


def _check_retrieval(spec: TaskSpec, findings: Findings) -> None:
    if any(one.path and one.path[0] == "retrieval" for one in spec.deferred):
        return
    retrieval = spec.retrieval
    if retrieval is None:
        findings.wrong((), "a task of type rag needs retrieval", hint="add retrieval: {documents: …, embedding: {model: …}}")
        return
    if not retrieval.embedding.model and retrieval.embedding.source is None:
        hint = "add embedding: {model: …}, or {source: …} as model.source says it"
        findings.warn(("retrieval",), "names no embedding model, and the task fails without one", hint=hint)
    if not (retrieval.documents or retrieval.index or retrieval.path or retrieval.qdrant):
        findings.warn(("retrieval",), "names nothing to look up in", hint="add documents, an index, or the path or server of a store that is there")


def _check_sampling(inference: Inference, findings: Findings) -> None:
    given = [name for name in _ONE_OF if getattr(inference, name) is not None]
    if len(given) > 1:
        findings.wrong(("inference", given[1]), f"cannot be used together with {given[0]}", accepted=f"one of {', '.join(_ONE_OF)}")
    if inference.choice == ():
        findings.wrong(("inference", "choice"), "holds no choices", found="an empty list", accepted="a list of texts, of which the answer is one")
    if isinstance(inference.json_schema, dict):
        check_schema(inference.json_schema, ("inference", "json_schema"), findings)
    elif inference.json_schema is not None and "${" not in inference.json_schema:
        _check_schema_text(inference.json_schema, findings)
    if (inference.n or 1) > 1 and (inference.do_sample is False or (inference.temperature == 0 and not inference.do_sample)):
        findings.wrong(("inference", "n"), "needs sampling, or all answers are the same", found=shown(inference.n), hint="set temperature above 0")
    if inference.min_tokens and inference.max_tokens and inference.min_tokens > inference.max_tokens:
        findings.wrong(("inference", "min_tokens"), "is larger than max_tokens", found=f"{inference.min_tokens} > {inference.max_tokens}")


def _check_schema_text(text: str, findings: Findings) -> None:
    """A schema as text is JSON."""
    try:
        schema = msgspec.json.decode(text)
        if isinstance(schema, dict):
            check_schema(schema, ("inference", "json_schema"), findings, as_text=True)
    except RecursionError:
        findings.wrong(("inference", "json_schema"), "is nested too deeply", found=shown(text))
        return
    except msgspec.DecodeError as error:
        findings.wrong(("inference", "json_schema"), f"is no JSON: {error}", found=shown(text), accepted="a schema as a mapping, or as JSON text")
        return
    if not isinstance(schema, dict | bool):
        findings.wrong(("inference", "json_schema"), "is no schema", found=shown(schema), accepted="a schema as a mapping, or as JSON text")


def _check_rewards(spec: TaskSpec, findings: Findings) -> None:
    for at, reward in enumerate(spec.rewards):
        needed = _REWARD_NEEDS.get(reward.type, ())
        if needed and all(getattr(reward, name) is None for name in needed):
            findings.wrong(("rewards", at), f"a reward of type {reward.type} lacks its measure", accepted=" or ".join(needed))
        if reward.json_schema is not None:
            check_schema(reward.json_schema, ("rewards", at, "json_schema"), findings)


def _check_eval(spec: TaskSpec, findings: Findings) -> None:
    judged = spec.eval or Eval()
    if judged.harness == "lm-eval" and not judged.tasks:
        findings.wrong(("eval",), '"tasks" is missing', accepted="names of lm-eval's tasks, such as [arc_easy]")
    elif judged.harness != "lm-eval" and spec.task_type == "eval" and spec.data is None and not spec.deferred:
        findings.wrong((), f"an evaluation by {judged.harness} needs data", hint="add data with prompts and the right answers")
    if judged.gate is not None and not judged.gate.metric:
        findings.wrong(("eval", "gate"), '"metric" is missing', accepted="text: the metric that decides")
    if judged.gate is not None and judged.gate.min is None and judged.gate.better_than is None:
        findings.wrong(("eval", "gate"), "says no bound", accepted="min or better_than")


def _check_output(spec: TaskSpec, findings: Findings) -> None:
    for at, name in enumerate(spec.output.artifacts):
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            findings.wrong(("output", "artifacts", at), "leads out of the task's folder", found=shown(name))
    destination = spec.output.destination
    if destination is None:
        return
    if destination.type == "http" and not destination.url:
        findings.wrong(("output", "destination"), '"url" is missing', accepted="text: where the result is sent")
    if destination.url:
        _check_url(destination.url, ("output", "destination", "url"), findings)
    if destination.path and "://" in destination.path:
        hint = "the setting RESULTS_MIRROR copies all results to object storage"
        findings.wrong(("output", "destination", "path"), "is a URL", found=shown(destination.path), accepted="a folder", hint=hint)
    if destination.path and ".." in PurePosixPath(destination.path).parts:
        findings.wrong(("output", "destination", "path"), "leads out of the results folder", found=shown(destination.path))


def _check_url(url: str, path: Path, findings: Findings) -> None:
    if not url.startswith(("http://", "https://", "${")):
        findings.wrong(path, "is no URL", found=shown(url), accepted="http://… or https://…")
