"""Files that a task names: relative paths are made absolute against the folder of its file, and what is not there is said at intake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from mloc.core.language.content_parts import with_media_paths
from mloc.core.language.data_spec import DatasetData, JsonlData, ListData, MessagesData
from mloc.core.language.errors import LanguageError, Problem, shown
from mloc.core.language.model_spec import LocalSource, Model, ScratchSource
from mloc.core.language.plan import Plan, PlannedTask
from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import RewardModel
from mloc.core.language.yaml_positions import YamlPositions

MissingIsWrong = bool | Literal["relative"]
"""Whether a file that is not there makes a task wrong: any, none, or one that is named by a relative path."""
_ROW_FILES = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"})


def with_absolute_paths(
    plans: Sequence[Plan], folder: Path, text: str, source: str = "", *, missing_is_wrong: MissingIsWrong = True
) -> tuple[tuple[Plan, ...], tuple[Problem, ...]]:
    """The plans with absolute paths, and warnings. Raises LanguageError naming each missing file with its line in `text`,
    or warns of those that `missing_is_wrong` leaves (the workers may see disks that this machine does not)."""
    anchoring = _Anchoring(folder, text, source)
    anchored = tuple(replace(plan, tasks=tuple(anchoring.task(task) for task in plan.tasks)) for plan in plans)
    wrong = anchoring.missing if missing_is_wrong is True else anchoring.missing_here if missing_is_wrong else []
    if wrong:
        raise LanguageError(tuple(dict.fromkeys(wrong)))
    return anchored, tuple(dict.fromkeys(anchoring.missing))


def local_files(plans: Sequence[Plan], folder: Path) -> dict[str, str]:
    """Relative paths in the plans that name files below (or beside) `folder` → where these are on this machine."""
    anchoring = _Anchoring(folder, "", "")
    for plan in plans:
        for task in plan.tasks:
            anchoring.task(task)
    return anchoring.found


class _Anchoring:
    """One file's pass, collecting what is missing."""

    def __init__(self, folder: Path, text: str, source: str) -> None:
        self._folder = folder
        self.text = text
        self.positions = YamlPositions(text, source)
        self.missing: list[Problem] = []
        self.missing_here: list[Problem] = []  # those with a relative path
        self.found: dict[str, str] = {}  # relative path as written → absolute path of what is there

    @cached_property
    def folder(self) -> Path:
        """Resolved when the first path is: most files name none."""
        return self._folder.resolve()

    def task(self, task: PlannedTask) -> PlannedTask:
        spec = self._spec(task.spec)
        return task if spec is task.spec else replace(task, spec=spec)

    def _spec(self, spec: TaskSpec) -> TaskSpec:
        changes: dict[str, Any] = dict(_changed("data", spec.data, self._data(spec.data)))
        changes.update(_changed("model", spec.model, self._model(spec.model)))
        load = spec.checkpoint.load
        if load is not None and load.path and (path := self._path(load.path, "spec.checkpoint.load.path", other=load.url)) != load.path:
            changes["checkpoint"] = replace(spec.checkpoint, load=replace(load, path=path))
        changes.update(_changed("reward_model", spec.reward_model, self._reward_model(spec.reward_model, "spec.reward_model")))
        rewards = tuple(
            replace(reward, model=self._reward_model(reward.model, f"spec.rewards[{at}].model")) if isinstance(reward.model, RewardModel) else reward
            for at, reward in enumerate(spec.rewards)
        )
        changes.update(_changed("rewards", spec.rewards, rewards))
        retrieval = spec.retrieval
        if retrieval is not None and retrieval.documents is not None:
            documents = self._documents(retrieval.documents)
            changes.update(_changed("retrieval", retrieval, replace(retrieval, documents=documents)))
        return replace(spec, **changes) if changes else spec

    def _reward_model(self, model: RewardModel | None, place: str) -> RewardModel | None:
        if model is None or not model.path:
            return model
        return replace(model, path=self._path(model.path, f"{place}.path", other=model.url or model.task_id, relative_only=True))

    def _documents(self, documents: Any) -> Any:
        """A path, or mappings with one; texts of a list are documents themselves."""
        match documents:
            case str():
                return self._path(documents, "spec.retrieval.documents")
            case {"path": str(path)}:
                return {**documents, "path": self._path(path, "spec.retrieval.documents.path", other=documents.get("url"))}
            case {"jsonl": {"path": str(path)} as jsonl}:
                return {**documents, "jsonl": {**jsonl, "path": self._path(path, "spec.retrieval.documents.jsonl.path", other=jsonl.get("url"))}}
            case {"jsonl": str(path)}:
                return {**documents, "jsonl": self._path(path, "spec.retrieval.documents.jsonl")}
            case list() | tuple():
                return tuple(self._documents(one) if isinstance(one, dict) else one for one in documents)
            case _:
                return documents

    def _data(self, data: Any) -> Any:
        match data:
            case JsonlData(path=str(path), url=url):
                return replace(data, path=self._path(path, "spec.data.jsonl.path", other=url))
            case DatasetData(path=str(path), url=url):
                return replace(data, path=self._path(path, "spec.data.path", other=url))
            case DatasetData(identifier=str(name)) if Path(name).suffix in _ROW_FILES and _is_there(self.folder / name):
                return replace(data, identifier=self._path(name, "spec.data.identifier"))
            case ListData(items=items):
                return replace(data, items=self._media(items, "spec.data.items"))
            case MessagesData(messages=messages):
                return replace(data, messages=self._media(messages, "spec.data.messages"))
            case _:
                return data

    def _media(self, rows: tuple[Any, ...], place: str) -> tuple[Any, ...]:
        """Rows or turns with absolute paths of their images, sounds and films."""
        if not any(isinstance(row, dict | list | tuple) for row in rows):
            return rows
        return tuple(row if isinstance(row, str) else self._media_row(row, f"{place}[{at}]") for at, row in enumerate(rows))

    def _media_row(self, row: Any, place: str) -> Any:
        def absolute(written: str) -> str:
            return self._path(written, place, relative_only=True)

        return with_media_paths(row, absolute)

    def _model(self, model: Model) -> Model:
        match model.source:
            case LocalSource(identifier=str(path)) as source if path:
                model = replace(model, source=replace(source, identifier=self._path(path, "spec.model.source.identifier", relative_only=True)))
            case ScratchSource(tokenizer_text=str(path)) as source if Path(path[:4096]).suffix and "\n" not in path:
                model = replace(model, source=replace(source, tokenizer_text=self._path(path, "spec.model.source.tokenizer_text")))
        adapters = tuple(
            replace(adapter, path=self._path(adapter.path, f"spec.model.adapters[{at}].path", other=adapter.url, relative_only=True))
            if adapter.path else adapter
            for at, adapter in enumerate(model.adapters)
        )  # fmt: skip
        return replace(model, adapters=adapters) if adapters != model.adapters else model

    def _path(self, written: str, place: str, *, other: str | None = None, relative_only: bool = False) -> str:
        """The absolute path. Missing is fine where `other` may serve; where `relative_only`, an absolute one may be on the workers' disks."""
        if "${" in written or "://" in written:
            return written
        path = self.folder / written
        is_there = _is_there(path)
        if is_there and not Path(written).is_absolute():
            self.found[written] = str(path)
        if not is_there and not other and not (relative_only and Path(written).is_absolute()):
            hint = "" if Path(written).is_absolute() else f"relative paths start at the folder of the file, {self.folder}"
            self.missing.append(problem := self._located(Problem("the file is not there", path=place, found=shown(written), hint=hint), written))
            self.missing_here += [] if Path(written).is_absolute() else [problem]
        return str(path)

    def _located(self, problem: Problem, written: str) -> Problem:
        """The problem at the first line that writes the value: rewriting of older names has lost its path."""
        for number, line in enumerate(self.text.splitlines(), 1):
            if (column := line.find(written)) >= 0:
                return self.positions.at_line(problem, number, column + 1)
        return problem


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _changed(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any]]:
    if new != old:
        yield name, new
