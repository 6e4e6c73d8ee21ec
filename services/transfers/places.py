"""Which parts of a task's spec name something that may have to be fetched, and under which alternatives. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from mloc.core.language.content_parts import images_in
from mloc.core.language.data_spec import DatasetData, JsonlData, ListData, MessagesData
from mloc.core.language.errors import dotted
from mloc.core.language.inference_spec import Retrieval
from mloc.core.language.model_spec import HttpSource, HuggingFaceSource, LocalSource, ModelSource, ScratchSource, StageSource
from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import RewardModel
from mloc.services.artifacts.inputs import named_in

_TRACES = (
    b'"image', b'"reward_model"', b'"rewards"', b'"retrieval"',
    b'"url"', b'"path"', b'"taskId"', b'"http"', b'"stage"', b'"identifier":"/', b"://", b"/.inputs/",
)  # fmt: skip


class Place(Struct, frozen=True):
    """One input. Of `path`, `task` and `url` the first that is there is used. `task` is a stage's name or a task's id."""

    where: str  # in the spec, for people
    kind: Literal["file", "weights"]
    path: str = ""
    url: str = ""
    task: str = ""
    stage: str = ""  # a stage's name if it is one, else something of a hub
    headers: dict[str, str] = {}
    of_row: bool = False  # where it cannot be had, only the row that names it has the error


def may_have_places(encoded: bytes) -> bool:
    """Cheap: most specs name nothing that could be elsewhere."""
    return any(trace in encoded for trace in _TRACES)


def places_of(spec: TaskSpec) -> list[Place]:
    return [place for place in _all(spec) if place.path or place.url or place.task or place.stage]


def _all(spec: TaskSpec) -> Iterator[Place]:
    match spec.data:
        case JsonlData() as data:
            yield Place("data.jsonl", "file", data.path or "", data.url or "", headers=data.headers)
        case DatasetData() as data:
            identifier = data.identifier or ""
            url = data.url or (identifier if "://" in identifier else "")
            path = data.path or (identifier if identifier.startswith("/") else "")
            yield Place("data", "file", path, url, headers=data.headers)
        case ListData(items=rows) | MessagesData(messages=rows):
            yield from _images(rows)
    yield from _source(spec.model.source, "model.source")
    if spec.retrieval is not None:
        yield from _retrieval(spec.retrieval)
    for number, adapter in enumerate(spec.model.adapters):
        where = f"model.adapters[{number}]"
        yield Place(where, "weights", adapter.path or "", adapter.url or "", adapter.task_id or "", headers=adapter.headers)
    if (load := spec.checkpoint.load) is not None:
        yield Place("checkpoint.load", "weights", load.path or "", load.url or "", load.task_id or "", headers=load.headers)
    if spec.reward_model is not None:
        yield from _reward_model(spec.reward_model, "reward_model")
    for number, reward in enumerate(spec.rewards):
        if isinstance(reward.model, RewardModel):
            yield from _reward_model(reward.model, f"rewards[{number}].model")


def _images(rows: tuple[Any, ...]) -> Iterator[Place]:
    named = {image: path for at, row in enumerate(rows) if not isinstance(row, str) for path, image in images_in(row, ("data", at))}
    for image, path in named.items():
        if image.startswith(("http://", "https://")):
            yield Place(dotted(path), "file", url=image, of_row=True)
        elif not image.startswith("data:"):
            yield Place(dotted(path), "file", image.removeprefix("file://"), of_row=True)


def _retrieval(retrieval: Retrieval) -> Iterator[Place]:
    named = retrieval.documents if isinstance(retrieval.documents, list | tuple) else [retrieval.documents]
    for one in named:
        match one:
            case {"path": str(path)}:
                yield Place("retrieval.documents", "file", path)
            case {"url": str(url)}:
                yield Place("retrieval.documents", "file", url=url)
            case str(url) if one is retrieval.documents and url.startswith(("http://", "https://")):
                yield Place("retrieval.documents", "file", url=url)
            case str(path) if one is retrieval.documents and (path.startswith("/") or named_in(path)) and "\n" not in path:
                yield Place("retrieval.documents", "file", path)
    yield Place("retrieval.index", "weights", (retrieval.index or "").removeprefix("file://"))
    yield from _source(retrieval.embedding.source, "retrieval.embedding.source")
    for where, model in (("retrieval.embedding.model", retrieval.embedding.model), ("retrieval.search.rerank", retrieval.search.rerank or "")):
        yield Place(where, "weights", model if model.startswith("/") else "")


def _reward_model(model: RewardModel, where: str) -> Iterator[Place]:
    path = model.path or (model.identifier if model.identifier.startswith("/") else "")
    stage = model.identifier if not path and model.source is None else ""
    yield Place(where, "weights", path, model.url or "", model.task_id or "", stage)
    yield from _source(model.source, f"{where}.source")


def _source(source: ModelSource | None, where: str) -> Iterator[Place]:
    match source:
        case HttpSource():
            yield Place(where, "weights", url=source.identifier, headers=source.headers)
        case StageSource():
            task = source.task_id or source.identifier
            yield Place(where, "weights", source.path or "", source.url or "", task, headers=source.headers)
        case ScratchSource(tokenizer_text=str(text)) if named_in(text):
            yield Place(f"{where}.tokenizer_text", "file", text)
        case LocalSource(identifier=identifier) | HuggingFaceSource(identifier=identifier):
            yield Place(where, "weights", identifier if identifier.startswith("/") else "")
