"""Models that an earlier stage made, named by the stage: filled with references to where that stage puts its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings
from mloc.core.language.model_spec import StageSource
from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import RewardModel

_REFERABLE = re.compile(r"[A-Za-z0-9_-]{1,63}")


def with_stage_sources(spec: TaskSpec, names: Sequence[str], findings: Findings) -> TaskSpec:
    """The spec with every source of type `stage` filled: a whole model's folder, else its archive, else the task that has an adapter.

    `names`: stages of the file and tasks submitted before that this one may wait for. Those that are none of them are noted."""
    changes: dict[str, Any] = {}
    if isinstance(spec.model.source, StageSource):
        source = _filled(spec.model.source, names, ("model", "source"), findings)
        changes["model"] = replace(spec.model, source=source)
    if spec.retrieval is not None and isinstance(spec.retrieval.embedding.source, StageSource):
        filled = _filled(spec.retrieval.embedding.source, names, ("retrieval", "embedding", "source"), findings)
        changes["retrieval"] = replace(spec.retrieval, embedding=replace(spec.retrieval.embedding, source=filled))
    if spec.reward_model is not None:
        changes["reward_model"] = _scored_by(spec.reward_model, names, ("reward_model",), findings)
    if spec.eval is not None and spec.eval.judge is not None:
        changes["eval"] = replace(spec.eval, judge=_scored_by(spec.eval.judge, names, ("eval", "judge"), findings))
    if spec.rewards:
        changes["rewards"] = tuple(
            reward if reward.model is None else replace(reward, model=_scored_by(reward.model, names, ("rewards", at, "model"), findings))
            for at, reward in enumerate(spec.rewards)
        )
    return replace(spec, **changes) if changes else spec


def hint_for_stage(name: str, names: Sequence[str]) -> str:
    """What to do about the name of a stage that is none."""
    there = "the stages are " + ", ".join(names) if names else "this task has no earlier stages; dependsOn names tasks submitted before"
    return did_you_mean(name, names) or there


def _scored_by(model: RewardModel | str, names: Sequence[str], path: Path, findings: Findings) -> RewardModel | str:
    """A trained reward model may be named by its stage alone."""
    if isinstance(model, str):
        return model
    if isinstance(model.source, StageSource):
        return replace(model, source=_filled(model.source, names, (*path, "source"), findings))
    if model.source is None and model.identifier in names and not (model.path or model.url or model.task_id):
        return replace(model, source=_filled(StageSource(identifier=model.identifier), names, path, findings))
    return model


def _filled(source: StageSource, names: Sequence[str], path: Path, findings: Findings) -> StageSource:
    stage = source.identifier
    if not stage or "${" in stage or source.path or source.url or source.task_id:
        return source
    if stage not in names:
        findings.wrong((*path, "identifier"), f"refers to an unknown stage {shown(stage)}", hint=hint_for_stage(stage, names))
        return source
    if not _REFERABLE.fullmatch(stage):
        findings.wrong((*path, "identifier"), "cannot be referred to by this name", found=shown(stage), hint="write its id into taskId")
        return source
    return replace(
        source, path=f"${{{stage}.result.final_model_path}}", url=f"${{{stage}.result.final_model_archive_url}}", task_id=f"${{{stage}.task_id}}"
    )
