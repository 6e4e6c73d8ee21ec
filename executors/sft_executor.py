"""Supervised fine-tuning with TRL: of all weights (`sft`), or of a low-rank adapter (`lora_sft`, or `sft` with `model.adapter`)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.model_spec import Adapter
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.data_loading import examples, load_rows
from mloc.executors.durable_files import sync_tree
from mloc.executors.model_loading import LoadedModel, load_model
from mloc.executors.rows import texts
from mloc.executors.training_reports import complete_checkpoint, history, reporting_callback
from mloc.executors.training_settings import trainer_config
from mloc.executors.weights import FINAL_LORA, FINAL_MODEL


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once for all trainings of this host: seconds each time otherwise."""
    import peft
    import trl

    _ = (peft.LoraConfig, trl.SFTTrainer, trl.SFTConfig)  # they import what they need only now


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """Train, in the steps that `training` asks for, from the checkpoint of an earlier attempt where there is one."""
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    began = time.monotonic()
    spec = decode_spec(task.spec)
    config, notes = trainer_config(SFTConfig, spec, context)
    rows = load_rows(spec, context)
    dataset = Dataset.from_list(examples(rows))
    yield Progress((*notes, f"{len(rows)} examples; loading the model"))
    set_seed(config.seed)
    loaded = load_model(spec, context, texts(rows), trainable=True)
    model, lora = _prepared(task, spec, loaded)
    if context.stopping():
        return
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=dataset, processing_class=loaded.tokenizer, peft_config=lora,
        callbacks=[reporting_callback(context)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    yield Progress((f"{sum(p.numel() for p in trainer.model.parameters() if p.requires_grad):,} weights to train",))
    _train(trainer, complete_checkpoint(context.checkpoint))
    if context.stopping() and trainer.state.global_step < trainer.state.max_steps:
        return
    name = FINAL_LORA if hasattr(trainer.model, "peft_config") else FINAL_MODEL
    final = context.artifacts / name
    if spec.training.get("save_model", True):
        _save(trainer, loaded.tokenizer, final, keep_checkpoints=bool(spec.training.get("keep_checkpoints")))
    yield Result(_result(task, loaded, trainer, context, final, time.monotonic() - began), files=True)


def _prepared(task: RunTask, spec: TaskSpec, loaded: LoadedModel) -> tuple[Any, Any]:
    """(model, LoRA configuration or None). An adapter that is there already is trained on, or merged where all weights are to be trained."""
    wanted = spec.model.adapter or (Adapter() if task.task_type == "lora_sft" else None)
    is_adapted = hasattr(loaded.model, "peft_config")
    if wanted is None:
        whole = loaded.model.merge_and_unload() if is_adapted else loaded.model
        return whole.requires_grad_(True), None  # the adapter had frozen what lies below it
    if wanted.type == "qlora":
        raise ExecutorError("NotSupported", "an adapter of type qlora is not in this version; use type lora")
    if loaded.weights is None:
        raise ExecutorError("BadModel", "an adapter needs weights to go on top of, and a scratch model has none; train it with sft first")
    return loaded.model, None if is_adapted else _lora_config(wanted)


def _lora_config(adapter: Adapter) -> Any:
    from peft import LoraConfig

    targets = adapter.target_modules
    return LoraConfig(
        r=adapter.r, lora_alpha=adapter.lora_alpha, lora_dropout=adapter.lora_dropout, bias=adapter.bias, use_rslora=adapter.use_rslora,
        task_type=adapter.task_type, modules_to_save=list(adapter.modules_to_save) if adapter.modules_to_save else None,
        target_modules="all-linear" if targets is None else targets if isinstance(targets, str) else list(targets),
    )  # fmt: skip


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


def _save(trainer: Any, tokenizer: Any, final: Path, *, keep_checkpoints: bool) -> None:
    """Durable final weights; then the checkpoints have served."""
    trainer.save_model(str(final))
    tokenizer.save_pretrained(str(final))
    (final / "training_args.bin").unlink(missing_ok=True)  # a pickle of this attempt's paths
    sync_tree(final)
    if not keep_checkpoints:
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)


def _result(task: RunTask, loaded: LoadedModel, trainer: Any, context: Context, final: Path, seconds: float) -> dict[str, Any]:
    points = history(trainer.state)
    losses = [point["loss"] for point in points if "loss" in point]
    tokens = int(trainer.state.num_input_tokens_seen or max((point.get("num_tokens", 0) for point in points), default=0))
    return {
        "ok": True,
        "task_id": task.task,
        "model": loaded.name,
        "training": {
            "steps": trainer.state.global_step,
            "epochs": round(trainer.state.epoch or 0.0, 4),
            "first_loss": round(losses[0], 4) if losses else None,
            "final_loss": round(losses[-1], 4) if losses else None,
            "history": points,
        },
        **({f"{final.name}_path": context.final_path(final)} if final.is_dir() else {}),
        "output_dir": str(context.final_folder),
        "usage": {
            "prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens, "latency_sec": round(seconds, 3), "num_requests": 0,
        },
    }  # fmt: skip
