"""The course of every training with TRL: settings, rows, model, trainer; then steps until the end, or until it is asked to stop.

What differs between kinds of training is a `Recipe`: the config class, how rows become examples, and how the trainer is made.
"""

from __future__ import annotations

import shutil
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.core.usage import of_training
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.meters import Meter
from mloc.executors.models.model_loading import LoadedModel, load_model
from mloc.executors.ranks import in_rank, own_devices, rank
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.rows import Row, texts
from mloc.executors.training.best_weights import find_best
from mloc.executors.training.evaluation import Evaluation, evaluation_of, held_out, outcome
from mloc.executors.training.held_state import begin_at_pass, load_as_trained
from mloc.executors.training.model_card import Trained
from mloc.executors.training.parallelism import is_sharded, save_gathered, wants_deepspeed
from mloc.executors.training.precision import precision_of
from mloc.executors.training.rank_launch import launch_of, run_ranks
from mloc.executors.training.sampled_tokens import sampled_tokens
from mloc.executors.training.saved_checkpoints import usable_checkpoint
from mloc.executors.training.trackers import tracked, trackers_of
from mloc.executors.training.trained_weights import adapter_of, final_folder, is_quantized, keep_whole, prepared, save_final
from mloc.executors.training.training_reports import history, reporting_callback
from mloc.executors.training.training_settings import trainer_config

Load = Callable[[TaskSpec, Context, Iterable[str]], LoadedModel]


def load_trainable(spec: TaskSpec, context: Context, task_texts: Iterable[str]) -> LoadedModel:
    """The model to train; of four bits where an adapter of type qlora goes on top."""
    dtype, placed = precision_of(spec, context).weights, not is_sharded(spec.training)
    return load_model(spec, context, task_texts, trainable=True, quantized=is_quantized(spec), dtype=dtype, placed=placed)


class Prepared(Struct, frozen=True):
    """What a trainer is made of. `given`: the arguments that all of TRL's trainers take."""

    task: RunTask
    spec: TaskSpec
    context: Context
    rows: list[Row]  # also those that are only evaluated on
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
    notes: Callable[[list[dict[str, Any]]], list[str]] = lambda examples: []  # what a person should know of the examples
    best: str = "eval_loss"  # tells the best weights, unless the task names another


def train(task: RunTask, context: Context, recipe: Recipe) -> Iterator[Report]:
    """Train, in the steps that `training` asks for, from the checkpoint of an earlier attempt where there is one."""
    spec = decode_spec(task.spec)
    if not in_rank() and (launch := launch_of(spec, context, always=wants_deepspeed(spec.training))) is not None:
        yield from run_ranks(task, launch, context)
        return
    with tracked(trackers_of(spec.training) if rank() == 0 else [], task.task, context):
        yield from _train_here(task, spec, context, recipe)


def _train_here(task: RunTask, spec: TaskSpec, context: Context, recipe: Recipe) -> Iterator[Report]:
    from transformers import set_seed

    began, meter = time.monotonic(), Meter(own_devices(context))
    evaluation = evaluation_of(spec.training, recipe.best)
    config, notes = trainer_config(recipe.config_class, spec, context, {**recipe.defaults, **evaluation.settings})
    rows, kept = held_out(list(load_rows(spec, context)), evaluation.split, config.seed, spec, context)
    examples, kept_examples = recipe.examples(rows), recipe.examples(kept) if kept else []
    notes += recipe.notes([*examples, *kept_examples])
    yield Progress((*notes, f"{len(rows)} examples{f', {len(kept)} to evaluate on' if kept else ''}; loading the model"))
    set_seed(config.seed)
    loaded = recipe.load(spec, context, texts(rows))
    if context.stopping():
        return
    reporting = reporting_callback(context, meter)
    given = {
        "args": config, "processing_class": loaded.tokenizer, **_to_evaluate_on(kept_examples),
        "callbacks": [reporting, *_early_stopping(evaluation)],
    }  # fmt: skip
    with _values_refused():
        trainer = _trainer(loaded, Prepared(task, spec, context, [*rows, *kept], examples, given), recipe)
    checkpoint, notes = usable_checkpoint(context.checkpoint, context.folder.parent)
    yield Progress((f"{sum(p.numel() for p in trainer.model.parameters() if p.requires_grad):,} weights to train", *notes))
    reporting.trainer, reporting.resumed = weakref.proxy(trainer), checkpoint  # which has the callback: the memory of both is free at once
    with _values_refused():
        lying = _train(trainer, checkpoint)
    if reporting.stopped and trainer.state.global_step < trainer.state.max_steps:
        return
    told = _told(trainer, recipe.measures, meter)
    about = Trained(task.task, task.task_type, spec, loaded.name, len(rows), len(kept), config.seed, told, hasattr(trainer.model, "peft_config"))
    final = _saved(trainer, loaded, about, context, lying)
    if rank() != 0:
        yield Result({})  # rank 0 speaks for all, and writes the one file of the result
        return
    yield Result(_result(task, loaded, trainer, context, final, told, time.monotonic() - began), files=True)


@contextmanager
def _values_refused() -> Iterator[None]:
    """A value that only the trainer itself knows to be wrong, often at its first step, is as wrong in the next attempt."""
    try:
        yield
    except ValueError as error:
        traceback.print_exception(error)  # to the task's log
        raise ExecutorError("BadSetting", f"the trainer does not take this: {error}") from error


def _trainer(loaded: LoadedModel, made: Prepared, recipe: Recipe) -> Any:
    from transformers import PrinterCallback

    model, lora = prepared(loaded, adapter_of(made.spec))
    reference = _on_disk(loaded, model, made.context) if recipe.needs_reference and lora is None else None
    made.given.update(model=model, peft_config=lora)
    trainer = recipe.trainer(made)
    if hasattr(trainer.model, "peft_config") and (trainer.args.fp16 or (trainer.args.bf16 and not is_quantized(made.spec))):
        _keep_whole(trainer)  # with float16 on top of four bits too: TRL has those in bfloat16, whose gradients cannot be scaled
    trainer.remove_callback(PrinterCallback)
    _discard(reference)
    return trainer


def _keep_whole(trainer: Any) -> None:
    """What is trained beside an adapter's own weights (a head, `modules_to_save`) in float32 too; peft leaves it as the frozen weights are. Not
    where weights are kept in parts, which have to be alike."""
    if not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled:
        keep_whole(trainer.model)


def _saved(trainer: Any, loaded: LoadedModel, about: Trained, context: Context, lying: Path | None) -> Path:
    """The folder of the final weights, which are there unless the task does not want them. `lying`: as `_train` gives it."""
    final = final_folder(trainer.model, context)
    if about.spec.training.get("save_model", True):
        checkpoints = None if about.spec.training.get("keep_checkpoints") else Path(trainer.args.output_dir)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            save_gathered(trainer, final, lying)
        if rank() == 0:
            save_final(_whole(trainer), loaded.tokenizer, final, checkpoints, about)
    return final


def _whole(trainer: Any) -> Any:
    """The model to save; None where its parts were gathered and saved already."""
    return None if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled else trainer.accelerator.unwrap_model(trainer.model)


def _to_evaluate_on(examples: list[dict[str, Any]]) -> dict[str, Any]:
    from datasets import Dataset

    return {"eval_dataset": Dataset.from_list(examples)} if examples else {}


def _early_stopping(evaluation: Evaluation) -> list[Any]:
    from transformers import EarlyStoppingCallback

    return [] if evaluation.patience is None else [EarlyStoppingCallback(evaluation.patience, evaluation.threshold)]


def _on_disk(loaded: LoadedModel, model: Any, context: Context) -> Path | None:
    """TRL loads the reference by the model's name: weights that are nowhere on disk as they are now get a folder, until it has done so."""
    if hasattr(model, "peft_config"):
        return None
    if loaded.weights is not None and loaded.weights.adapter is None:
        model.config._name_or_path = loaded.weights.model  # results may know it by another path
        return None
    folder = context.folder / f"reference-{rank()}"
    model.save_pretrained(str(folder))
    model.config._name_or_path = str(folder)
    return folder


def _discard(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _train(trainer: Any, checkpoint: Path | None) -> Path | None:
    """Train from the checkpoint's step on. One that is at the last step already is only loaded: the trainer would add a step.

    Gives the folder that the final weights lie in already, where only a training could load them (DeepSpeed's)."""
    from transformers import TrainerState

    if checkpoint is None:
        trainer.train()
        return None
    load_as_trained(trainer)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        begin_at_pass(trainer, int(state.epoch or 0))
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return None
    if not trainer.is_deepspeed_enabled:
        trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    find_best(checkpoint, state)
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    if trainer.is_deepspeed_enabled:
        return Path(best or checkpoint)
    if best is not None:
        trainer._load_best_model()
    return None


def _told(trainer: Any, measures: Mapping[str, str], meter: Meter) -> dict[str, Any]:
    """The `training` part of the result."""
    state, points = trainer.state, history(trainer.state)
    told: dict[str, Any] = {"steps": state.global_step, "epochs": round(state.epoch or 0.0, 4)}
    for name, metric in measures.items():
        values = [point[metric] for point in points if metric in point]
        told |= {f"first_{name}": round(values[0], 4) if values else None, f"final_{name}": round(values[-1], 4) if values else None}
    keeps_best = trainer.args.load_best_model_at_end and state.best_metric is not None
    best = (state.best_metric, state.best_global_step) if keeps_best else None
    told |= outcome(points, best, stopped_early=state.global_step < state.max_steps)
    return {**told, **meter.totals(), "history": points}


def _result(
    task: RunTask, loaded: LoadedModel, trainer: Any, context: Context, final: Path, told: dict[str, Any], seconds: float
) -> dict[str, Any]:
    tokens = int(trainer.state.num_input_tokens_seen or max((point.get("num_tokens", 0) for point in told["history"]), default=0))
    return {
        "ok": True,
        "task_id": task.task,
        "model": loaded.name,
        "training": told,
        **({f"{final.name}_path": context.final_path(final)} if final.is_dir() else {}),
        "output_dir": str(context.final_folder),
        "usage": of_training(tokens, sampled_tokens(trainer.state), seconds),
    }
