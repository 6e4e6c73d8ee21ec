"""The course of every training with TRL: settings, rows, model, trainer; then steps until the end, or until it is asked to stop.

What differs between kinds of training is a `Recipe`: the config class, how rows become examples, and how the trainer is made.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, Progress, Report, Result
from mloc.executors.models.model_loading import LoadedModel, load_model
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.rows import Row, texts
from mloc.executors.training.trained_weights import adapter_of, final_folder, is_quantized, prepared, save_final
from mloc.executors.training.training_reports import complete_checkpoint, history, reporting_callback
from mloc.executors.training.training_settings import trainer_config

Load = Callable[[TaskSpec, Context, Iterable[str]], LoadedModel]


def load_trainable(spec: TaskSpec, context: Context, task_texts: Iterable[str]) -> LoadedModel:
    """The model to train; of four bits where an adapter of type qlora goes on top."""
    return load_model(spec, context, task_texts, trainable=True, quantized=is_quantized(spec))


class Prepared(Struct, frozen=True):
    """What a trainer is made of. `given`: the arguments that all of TRL's trainers take."""

    task: RunTask
    spec: TaskSpec
    context: Context
    rows: list[Row]
    examples: list[dict[str, Any]]
    given: dict[str, Any]


class Recipe(Struct, frozen=True):
    """One kind of training. `measures`: metrics of the history whose first and last values the result shows, under these names."""

    config_class: Any
    examples: Callable[[Iterable[Row]], list[dict[str, Any]]]
    trainer: Callable[[Prepared], Any]
    measures: Mapping[str, str] = MappingProxyType({"loss": "loss"})
    needs_reference: bool = False
    load: Load = load_trainable
    defaults: Mapping[str, Any] = MappingProxyType({})


def train(task: RunTask, context: Context, recipe: Recipe) -> Iterator[Report]:
    """Train, in the steps that `training` asks for, from the checkpoint of an earlier attempt where there is one."""
    from transformers import PrinterCallback, set_seed

    began = time.monotonic()
    spec = decode_spec(task.spec)
    config, notes = trainer_config(recipe.config_class, spec, context, recipe.defaults)
    rows = list(load_rows(spec, context))
    examples = recipe.examples(rows)
    yield Progress((*notes, f"{len(rows)} examples; loading the model"))
    set_seed(config.seed)
    loaded = recipe.load(spec, context, texts(rows))
    model, lora = prepared(loaded, adapter_of(spec))
    if context.stopping():
        return
    reference = _on_disk(loaded, model, context) if recipe.needs_reference and lora is None else None
    given = {
        "model": model, "args": config, "processing_class": loaded.tokenizer, "peft_config": lora, "callbacks": [reporting_callback(context)],
    }  # fmt: skip
    trainer = recipe.trainer(Prepared(task, spec, context, rows, examples, given))
    trainer.remove_callback(PrinterCallback)
    yield Progress((f"{sum(p.numel() for p in trainer.model.parameters() if p.requires_grad):,} weights to train",))
    _discard(reference)
    _train(trainer, complete_checkpoint(context.checkpoint))
    if context.stopping() and trainer.state.global_step < trainer.state.max_steps:
        return
    final = final_folder(trainer.model, context)
    if spec.training.get("save_model", True):
        checkpoints = None if spec.training.get("keep_checkpoints") else Path(trainer.args.output_dir)
        save_final(trainer.accelerator.unwrap_model(trainer.model), loaded.tokenizer, final, checkpoints)
    yield Result(_result(task, loaded, trainer, context, final, recipe.measures, time.monotonic() - began), files=True)


def _on_disk(loaded: LoadedModel, model: Any, context: Context) -> Path | None:
    """TRL loads the reference by the model's name: weights that are nowhere on disk as they are now get a folder, until it has done so."""
    if hasattr(model, "peft_config"):
        return None
    if loaded.weights is not None and loaded.weights.adapter is None:
        model.config._name_or_path = loaded.weights.model  # results may know it by another path
        return None
    folder = context.folder / "reference"
    model.save_pretrained(str(folder))
    model.config._name_or_path = str(folder)
    return folder


def _discard(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _train(trainer: Any, checkpoint: Path | None) -> None:
    """Train from the checkpoint's step on. One that is at the last step already is only loaded: the trainer would add a step."""
    from transformers import TrainerState

    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = state


def _result(
    task: RunTask, loaded: LoadedModel, trainer: Any, context: Context, final: Path, measures: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    points = history(trainer.state)
    tokens = int(trainer.state.num_input_tokens_seen or max((point.get("num_tokens", 0) for point in points), default=0))
    told: dict[str, float | None] = {}
    for name, metric in measures.items():
        values = [point[metric] for point in points if metric in point]
        told |= {f"first_{name}": round(values[0], 4) if values else None, f"final_{name}": round(values[-1], 4) if values else None}
    return {
        "ok": True,
        "task_id": task.task,
        "model": loaded.name,
        "training": {"steps": trainer.state.global_step, "epochs": round(trainer.state.epoch or 0.0, 4), **told, "history": points},
        **({f"{final.name}_path": context.final_path(final)} if final.is_dir() else {}),
        "output_dir": str(context.final_folder),
        "usage": {
            "prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens, "latency_sec": round(seconds, 3), "num_requests": 0,
        },
    }  # fmt: skip
