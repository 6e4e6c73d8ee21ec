"""Rows that are held out to see how a training goes on what it does not learn from: `training.eval_split`, early stopping, the best weights.

    training:
      eval_split: 0.1              # a share of the rows, or so many of them, or another split of the dataset ("test", "train[90%:]")
      eval_steps: 50
      early_stopping: true         # stop when it no longer improves; the weights that were best are what the task leaves
      early_stopping_patience: 3

Any of `eval_strategy`, `early_stopping` and `load_best_model_at_end` asks for it; a tenth of the rows is held out unless said otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.data_spec import DatasetData
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.rows import Row

OWN_NAMES = frozenset({"eval_split", "early_stopping", "early_stopping_patience", "early_stopping_threshold"})
SHARE = 0.1


class Evaluation(Struct, frozen=True):
    """What is to be evaluated on, and when it ends the training. `split` None: nothing is held out. `patience` None: no early stopping."""

    split: float | str | None = None
    patience: int | None = None
    threshold: float = 0.0
    settings: dict[str, Any] = {}  # for the trainer's config, beneath what the task says itself


def evaluation_of(training: Mapping[str, Any], best: str) -> Evaluation:
    """What `training` asks for. `best`: the metric that tells the best weights unless the task names one. Raises ExecutorError."""
    stopping = training.get("early_stopping") or (training.get("early_stopping_patience") is not None and training.get("early_stopping") is None)
    keeps_best = bool(stopping or training.get("load_best_model_at_end"))
    is_asked = keeps_best or training.get("eval_split") is not None or str(training.get("eval_strategy", "no")).lower() not in ("no", "false")
    if not is_asked:
        return Evaluation()
    when = training.get("eval_strategy") or ("steps" if "eval_steps" in training or training.get("max_steps", -1) > 0 else "epoch")
    every = training.get("eval_steps") or training.get("logging_steps") or 10
    settings: dict[str, Any] = {"eval_strategy": when, **({"eval_steps": every} if when == "steps" else {})}
    if keeps_best:
        metric = training.get("metric_for_best_model") or best
        settings |= {"save_strategy": when, "load_best_model_at_end": True, "metric_for_best_model": metric}
        settings |= {"save_steps": every} if when == "steps" else {}
        settings["greater_is_better"] = training.get("greater_is_better", not metric.endswith(("loss", "kl")))
    return Evaluation(_split(training.get("eval_split", SHARE)), _patience(training) if stopping else None, _threshold(training), settings)


def _split(given: Any) -> float | str:
    if isinstance(given, str) and given:
        return given
    if isinstance(given, int | float) and not isinstance(given, bool) and given > 0 and (given < 1 or float(given).is_integer()):
        return float(given)
    raise ExecutorError("BadSetting", f"training.eval_split must be a share below 1, a number of rows, or a split's name; found {given!r}")


def _patience(training: Mapping[str, Any]) -> int:
    named = training.get("early_stopping")
    given = training.get("early_stopping_patience", named.get("patience", 1) if isinstance(named, dict) else 1)
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ExecutorError("BadSetting", f"training.early_stopping_patience must be at least 1, found {given!r}")
    return given


def _threshold(training: Mapping[str, Any]) -> float:
    named = training.get("early_stopping")
    return float(training.get("early_stopping_threshold", named.get("threshold", 0.0) if isinstance(named, dict) else 0.0))


def outcome(points: list[dict[str, float]], best: tuple[float, int] | None, *, stopped_early: bool) -> dict[str, Any]:
    """What a result tells of its evaluations. `points`: the history; `best`: the metric and step of the weights that were kept as the best."""
    told: dict[str, Any] = {}
    for metric, name, choose in (("eval_loss", "lowest", min), ("eval_reward", "highest", max)):
        if found := [point[metric] for point in points if metric in point]:
            told |= {f"final_{metric}": round(found[-1], 4), f"{name}_{metric}": round(choose(found), 4)}
    if best is not None:
        told |= {"best_metric": round(best[0], 4), "best_step": best[1], "stopped_early": stopped_early}
    return told


def held_out(rows: list[Row], split: float | str | None, seed: int, spec: TaskSpec, context: Context) -> tuple[list[Row], list[Row]]:
    """(rows to learn from, rows to evaluate on), the same for a seed in every attempt. Raises ExecutorError."""
    if split is None:
        return rows, []
    if isinstance(split, str):
        if not isinstance(spec.data, DatasetData):
            said = "names a split, and only data of type dataset has them; give a share such as 0.1"
            raise ExecutorError("BadSetting", f"training.eval_split {split!r} {said}")
        other = list(load_rows(replace(spec, data=replace(spec.data, split=split)), context))
        if not other:
            raise ExecutorError("NoData", f"the split {split!r} that is to be evaluated on has no rows")
        return rows, other
    count = max(1, int(len(rows) * split)) if split < 1 else int(split)
    if count >= len(rows):
        raise ExecutorError("BadSetting", f"training.eval_split {split:g} leaves nothing to learn from: there are {len(rows)} rows")
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return [row for at, row in enumerate(rows) if at not in chosen], [row for at, row in enumerate(rows) if at in chosen]
