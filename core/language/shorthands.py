"""Older and shorter forms of a spec, rewritten to the present one before it is checked, keeping where each part came from."""

from __future__ import annotations

from typing import Any

from mloc.core.language.errors import Path, dotted, shown
from mloc.core.language.findings import Findings
from mloc.core.language.hub_addresses import named_by_address, with_name
from mloc.core.language.passthrough_names import AGENT

OLDER_TASK_TYPES = {"rag_inference": "rag", "agent_inference": "agent"}
MOVED_HYPERPARAMETERS: dict[str, Path] = {
    "reward_model": ("reward_model",),
    "agent_type": ("agent", "type"),
    "tools": ("agent", "tools"),
    "embedding_model": ("retrieval", "embedding", "model"),
    "vector_db": ("retrieval", "store"),
    "retrieval_k": ("retrieval", "search", "top_k"),
    "chunk_size": ("retrieval", "chunking", "size"),
    "chunk_overlap": ("retrieval", "chunking", "overlap"),
    "qdrant": ("retrieval", "qdrant"),
    "embedding": ("retrieval", "embedding"),
    "search": ("retrieval", "search"),
}
MOVED: dict[str, Path] = {
    "lora": ("model", "adapter"),
    "configName": ("agent", "config_name"),
    "config_name": ("agent", "config_name"),
    "task": ("agent", "task"),
    "sloSeconds": ("slo", "latency_sec"),
    "qdrant": ("retrieval", "qdrant"),
    "embedding": ("retrieval", "embedding"),
    "search": ("retrieval", "search"),
    "prompts": ("data", "prompts"),
    "jsonl_path": ("data", "jsonl_path"),
}
MOVED_IN_RETRIEVAL: dict[str, Path] = {
    "k": ("search", "top_k"),
    "top_k": ("search", "top_k"),
    "retrieval_k": ("search", "top_k"),
    "embedding_model": ("embedding", "model"),
    "chunk_size": ("chunking", "size"),
    "chunk_overlap": ("chunking", "overlap"),
}
QDRANT_COLLECTION = ("collection", "collection_name")
_AGENT_NAMES = frozenset((*AGENT.kinds, *AGENT.aliases))
_TRIGGERS = MOVED.keys() | {"hyperparameters"}
_DATA_MARKS = (
    ("jsonl", "jsonl"), ("jsonl_path", "jsonl"), ("preferences", "preferences"), ("messages", "messages"),
    ("template", "graph_template"), ("prompts", "list"), ("items", "list"), ("url", "dataset"), ("path", "dataset"),
    ("identifier", "dataset"), ("dataset_name", "dataset"), ("dataset", "dataset"),
)  # fmt: skip


class Rewritten:
    """A spec in its present form. `written(path)` gives the path that the file uses for a present one."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self._moved: list[tuple[Path, Path]] = []

    def moved(self, present: Path, written: Path) -> None:
        """Note that what is now at `present` was written at `written`."""
        self._moved.append((present, written))

    def written(self, path: Path) -> Path:
        """Where the file writes what is now at `path`."""
        nearest = max((move for move in self._moved if path[: len(move[0])] == move[0]), key=lambda move: len(move[0]), default=None)
        return path if nearest is None else (*nearest[1], *path[len(nearest[0]) :])

    def rename(self, renamed: list[tuple[Path, Path]]) -> None:
        """Note names that a check rewrote: (present path, path as it was checked)."""
        self._moved += [(present, self.written(checked)) for present, checked in renamed]

    def put(self, path: Path, value: Any, written: Path, findings: Findings) -> None:
        """Set the value at a present path, copying the mappings on the way; what is there already wins."""
        mapping = self.spec
        for step in path[:-1]:
            inner = mapping.get(str(step))
            if inner is not None and not isinstance(inner, dict):
                return
            copied = dict(inner or {})
            mapping[str(step)] = copied
            mapping = copied
        name = str(path[-1])
        if isinstance(value, dict) and isinstance(mapping.get(name), dict):
            for inner_name in value:
                self._put_inner(mapping[name], (*path, inner_name), (*written, inner_name), findings)
            mapping[name] = {**value, **mapping[name]}
        elif mapping.get(name) is not None:
            self._ignore(path, written, findings)
        else:
            mapping[name] = value
            self.moved(path, written)

    def _put_inner(self, present: dict[str, Any], path: Path, written: Path, findings: Findings) -> None:
        if present.get(str(path[-1])) is not None:
            self._ignore(path, written, findings)
        else:
            self.moved(path, written)

    def _ignore(self, path: Path, written: Path, findings: Findings) -> None:
        findings.warn(written, f"ignored, because {shown(dotted(path))}, its present place, is there too")


def rewrite(spec: dict[str, Any], findings: Findings) -> Rewritten:
    """The spec in its present form. The given mapping is not changed; parts without older forms are shared."""
    rewritten = Rewritten(spec)
    if not _TRIGGERS.isdisjoint(spec):
        rewritten.spec = {name: value for name, value in spec.items() if name not in MOVED and name != "hyperparameters"}
        for name, path in MOVED.items():
            if spec.get(name) is not None:
                rewritten.put(path, spec[name], (name,), findings)
        _move_hyperparameters(spec, rewritten, findings)
    _rewrite_model(rewritten, findings)
    _rewrite_retrieval(rewritten, findings)
    _rewrite_data(rewritten, findings)
    _rewrite_scalars(rewritten)
    return rewritten


def _own(rewritten: Rewritten) -> dict[str, Any]:
    """The spec as a mapping that may be changed."""
    rewritten.spec = dict(rewritten.spec)
    return rewritten.spec


def _move_hyperparameters(spec: dict[str, Any], rewritten: Rewritten, findings: Findings) -> None:
    hyperparameters = spec.get("hyperparameters")
    if hyperparameters is None:
        return
    if not isinstance(hyperparameters, dict):
        rewritten.put(("training",), hyperparameters, ("hyperparameters",), findings)
        return
    home = "agent" if spec.get("taskType") in ("agent", "agent_inference") else "training"
    for name, value in hyperparameters.items():
        if value is not None:
            present = MOVED_HYPERPARAMETERS.get(name) or (home if name in _AGENT_NAMES else "training", name)
            rewritten.put(present, value, ("hyperparameters", name), findings)


def _rewrite_retrieval(rewritten: Rewritten, findings: Findings) -> None:
    retrieval = rewritten.spec.get("retrieval")
    if not isinstance(retrieval, dict):
        return
    if isinstance(retrieval.get("embedding"), str):
        retrieval = _own(rewritten)["retrieval"] = {**retrieval, "embedding": {"model": retrieval["embedding"]}}
    if isinstance(retrieval.get("qdrant"), dict):
        retrieval = _own(rewritten)["retrieval"] = _with_qdrant(retrieval, rewritten)
    if not MOVED_IN_RETRIEVAL.keys().isdisjoint(retrieval):
        _own(rewritten)["retrieval"] = {name: value for name, value in retrieval.items() if name not in MOVED_IN_RETRIEVAL}
        for name, path in MOVED_IN_RETRIEVAL.items():
            if retrieval.get(name) is not None:
                rewritten.put(("retrieval", *path), retrieval[name], ("retrieval", name), findings)


def _with_qdrant(retrieval: dict[str, Any], rewritten: Rewritten) -> dict[str, Any]:
    """Who says where Qdrant is means to use it; its collection may stand with its address."""
    taken = dict(retrieval)
    if retrieval.get("store") is None and retrieval.get("vector_db") is None:
        taken["store"] = "qdrant"
    for name in QDRANT_COLLECTION:
        if name in retrieval["qdrant"]:
            taken["qdrant"] = {key: value for key, value in taken["qdrant"].items() if key != name}
            if retrieval.get("collection") is None:
                taken["collection"] = retrieval["qdrant"][name]
                rewritten.moved(("retrieval", "collection"), ("retrieval", "qdrant", name))
    return taken


def _rewrite_model(rewritten: Rewritten, findings: Findings) -> None:
    """`model.lora` is the adapter."""
    model = rewritten.spec.get("model")
    if isinstance(model, dict) and model.get("lora") is not None:
        _own(rewritten)["model"] = {name: value for name, value in model.items() if name != "lora"}
        rewritten.put(("model", "adapter"), model["lora"], ("model", "lora"), findings)


def _rewrite_data(rewritten: Rewritten, findings: Findings) -> None:
    """Give `data` its `type`, and move the prompts of `inference` there."""
    inference = rewritten.spec.get("inference")
    if isinstance(inference, dict) and "prompts" in inference:
        spec = _own(rewritten)
        spec["inference"] = {name: value for name, value in inference.items() if name != "prompts"}
        if spec.get("data") is not None:
            findings.warn(("inference", "prompts"), "ignored, because data is there too")
        elif inference["prompts"] is not None:
            spec["data"] = {"type": "list", "items": inference["prompts"]}
            rewritten.moved(("data", "items"), ("inference", "prompts"))
    data = rewritten.spec.get("data")
    if isinstance(data, list):
        _own(rewritten)["data"] = {"type": "list", "items": data}
        rewritten.moved(("data", "items"), ("data",))
    elif isinstance(data, dict) and (data.get("type") is None or "jsonl" in data or "jsonl_path" in data):
        _own(rewritten)["data"] = _typed_data(data, rewritten)
    data = rewritten.spec.get("data")
    if isinstance(data, dict) and data.get("type") == "dataset" and (found := named_by_address(data)):
        _own(rewritten)["data"] = with_name(data, found)
        rewritten.moved(("data", "identifier"), ("data", found.written_in))
        said = f"is the page of a dataset on the hub, and taken as {shown(found.identifier)}"
        said += f" at revision {shown(rewritten.spec['data']['revision'])}" if found.revision else ""
        findings.warn(("data", found.written_in), said, hint=f"write identifier: {found.identifier}", at_key=False)


def _typed_data(data: dict[str, Any], rewritten: Rewritten) -> dict[str, Any]:
    mark, kind = next(((mark, kind) for mark, kind in _DATA_MARKS if data.get(mark) is not None), ("", ""))
    if not kind:
        return data
    typed = {"type": kind, **{name: value for name, value in data.items() if name != "type"}}
    if mark == "jsonl" and isinstance(data["jsonl"], dict):
        del typed["jsonl"]
        typed |= data["jsonl"]
        for name in data["jsonl"]:
            rewritten.moved(("data", name), ("data", "jsonl", name))
    elif mark in ("jsonl", "jsonl_path"):
        typed["path"] = typed.pop(mark)
        rewritten.moved(("data", "path"), ("data", mark))
    return typed


def _rewrite_scalars(rewritten: Rewritten) -> None:
    """Texts that stand for a mapping, and older task types."""
    spec = rewritten.spec
    if isinstance(spec.get("taskType"), str) and spec["taskType"] in OLDER_TASK_TYPES:
        spec = _own(rewritten)
        spec["taskType"] = OLDER_TASK_TYPES[spec["taskType"]]
    for name, key in (("reward_model", "identifier"), ("notify", "url")):
        if isinstance(spec.get(name), str):
            spec = _own(rewritten)
            spec[name] = {key: spec[name]}
            rewritten.moved((name, key), (name,))
