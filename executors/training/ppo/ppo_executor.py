"""Proximal policy optimisation of a model against a reward (`ppo`); an update of it is in `ppo_update.py`.

An update samples an answer to each prompt of a batch, scores the answers, takes a penalty off every token for straying from the model
that training started with, estimates advantages (GAE), and goes over the batch `ppo_epochs` times with clipped losses. After Schulman
et al. 2017 (arXiv:1707.06347), Ziegler et al. 2019 (arXiv:1909.08593) and Huang et al. 2024, "The N+ Implementation Details of RLHF with
PPO" (arXiv:2403.17031): no dropout; prompts padded on the left; the value head is a scalar on the policy's last hidden state; advantages
are whitened, rewards only on request; values are clipped; Adam's epsilon is 1e-5; an answer without end can be penalised. The reference
is a frozen copy, or with an adapter the same weights with the adapter off. In several ranks each samples and scores answers of its own and
whitens their advantages; gradients and metrics are the means of all.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.core.usage import of_training
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.meters import Meter
from mloc.executors.ranks import in_rank, own_devices, rank
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.rows import Row, texts
from mloc.executors.training.evaluation import Evaluation, held_out, outcome
from mloc.executors.training.model_card import Trained
from mloc.executors.training.ppo import ppo_checkpoint
from mloc.executors.training.ppo.ppo_checkpoint import Progressed
from mloc.executors.training.ppo.ppo_course import Course, Prompts, an_update, go_through
from mloc.executors.training.ppo.ppo_evaluation import best_metric_of
from mloc.executors.training.ppo.ppo_rollouts import actor_critic, checkpoint_gradients
from mloc.executors.training.ppo.ppo_settings import PpoSettings, evaluation_for_ppo, ppo_settings
from mloc.executors.training.ppo.ppo_update import Learner
from mloc.executors.training.precision import precision_of
from mloc.executors.training.rank_launch import launch_of, run_ranks
from mloc.executors.training.rewards.reward_terms import Term, reward_terms, rewards_of
from mloc.executors.training.saved_checkpoints import usable_checkpoint
from mloc.executors.training.trackers import of_accelerate, tracked, trackers_of
from mloc.executors.training.trained_weights import adapter_of, final_folder, is_quantized, keep_whole, prepared, save_final
from mloc.executors.training.trl_training import load_trainable

DEFAULT_ANSWER_TOKENS = 64


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once for all trainings of this host."""
    import accelerate
    import peft
    import transformers

    _ = (accelerate.Accelerator, peft.get_peft_model, transformers.get_scheduler, transformers.AutoModelForCausalLM)


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """Train, from the checkpoint of an earlier attempt where there is one."""
    began = time.monotonic()
    spec = decode_spec(task.spec)
    evaluation = evaluation_for_ppo(spec.training)
    settings, notes = ppo_settings(spec, context, evaluation)
    if not in_rank() and (launch := launch_of(spec, context)) is not None:
        yield from run_ranks(task, launch, context)
        return
    autocast = precision_of(spec, context).autocast
    settings = replace(settings, bf16=autocast == "bf16", fp16=autocast == "fp16")
    rows, kept = held_out(list(load_rows(spec, context)), evaluation.split, settings.seed, spec, context)
    yield Progress((*notes, f"{len(rows)} prompts{f', {len(kept)} to evaluate on' if kept else ''}; loading the models"))
    terms = reward_terms(rewards_of(spec), context)
    best_metric_of(settings, [term.name for term in terms])
    try:
        with tracked(trackers_of(spec.training) if rank() == 0 else [], task.task, context):
            yield from _trained(task, spec, Made(settings, evaluation, rows, kept, terms), context, began)
    finally:
        for term in terms:
            term.close()


class Made(Struct, frozen=True):
    """What is known before a model is loaded."""

    settings: PpoSettings
    evaluation: Evaluation
    rows: list[Row]
    kept: list[Row]  # only evaluated on
    terms: list[Term]


def _trained(task: RunTask, spec: TaskSpec, made: Made, context: Context, began: float) -> Iterator[Report]:
    meter, settings = Meter(own_devices(context)), made.settings
    learner, name = _learner(spec, made, context)
    updates = _updates(settings, len(made.rows), learner.accelerator.num_processes)
    at, notes = _progress_so_far(learner, context)
    yield Progress((*notes, f"training from update {at.step} to {updates}"), at.step, updates)
    prompts, kept = (_with_chat_marks(rows, spec, learner) for rows in (made.rows, made.kept))
    course = Course(learner, prompts, kept, made.evaluation, updates, meter, context)
    try:
        yield from go_through(course, at)
    finally:
        learner.accelerator.end_training()
    if not course.is_over(at):
        return
    about = Trained(task.task, task.task_type, spec, name, len(made.rows), len(made.kept), settings.seed, {})
    if rank() == 0:
        yield _finished(about, course, at, time.monotonic() - began)
    else:
        yield Result({})  # rank 0 speaks for all


def _progress_so_far(learner: Learner, context: Context) -> tuple[Progressed, list[str]]:
    """(where to go on, what to say of it); what the checkpoint of an earlier attempt holds is in the learner then."""
    saved, notes = usable_checkpoint(context.checkpoint, context.folder.parent)
    if saved is None:
        return Progressed(kl_coef=learner.settings.kl_coef), notes
    if rank() == 0:
        ppo_checkpoint.carry_best(saved, context.artifacts / "checkpoints")
    ranks = (learner.accelerator.num_processes, learner.accelerator.process_index)
    return ppo_checkpoint.restore(saved, learner.bare, learner.optimizer, learner.scheduler, *ranks, learner.accelerator.scaler), notes


def _with_chat_marks(rows: list[Row], spec: TaskSpec, learner: Learner) -> Prompts:
    return [(row, prompt_text(row, spec.inference, learner.tokenizer)) for row in rows]


def _learner(spec: TaskSpec, made: Made, context: Context) -> tuple[Learner, str]:
    """(everything that an update needs, the model's name)."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from transformers import get_scheduler, set_seed

    AcceleratorState._reset_state(reset_partial_state=True)  # a host is warm: the task before may have wanted another precision
    settings = made.settings
    set_seed(settings.seed)
    loaded = load_trainable(spec, context, texts(made.rows))
    policy, lora = prepared(loaded, adapter_of(spec))
    if lora is not None:
        from peft import get_peft_model

        policy = get_peft_model(policy, lora)
        if (settings.bf16 or settings.fp16) and not is_quantized(spec):
            keep_whole(policy)
    reference = None if hasattr(policy, "peft_config") else copy.deepcopy(policy).eval().requires_grad_(False)
    precision = "bf16" if settings.bf16 else "fp16" if settings.fp16 else "no"
    accelerator = Accelerator(cpu=not context.devices, mixed_precision=precision, **of_accelerate(spec.training))
    model = actor_critic(policy).eval()  # no dropout (Huang et al. 2024, detail 11); gradients flow all the same
    if settings.gradient_checkpointing:
        checkpoint_gradients(policy)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, eps=settings.adam_epsilon, weight_decay=settings.weight_decay)
    updates = _updates(settings, len(made.rows), accelerator.num_processes)
    warmup = math.ceil(settings.warmup_steps * updates) if settings.warmup_steps < 1 else int(settings.warmup_steps)
    scheduler = get_scheduler(settings.lr_scheduler_type, optimizer, warmup, updates)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.init_trackers("mloc")
    if accelerator.process_index:
        set_seed(settings.seed + accelerator.process_index)  # the same weights on every rank, and answers of its own
    learner = Learner(
        settings, accelerator, model, reference, loaded.tokenizer, optimizer, scheduler, made.terms, _sampling(spec, settings)
    )
    return learner, loaded.name


def _sampling(spec: TaskSpec, settings: PpoSettings) -> dict[str, Any]:
    """Rollouts are drawn from the whole distribution unless `generation` says otherwise."""
    given = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **spec.generation}
    longest = settings.max_completion_length or given.pop("max_new_tokens", None) or spec.inference.max_tokens or DEFAULT_ANSWER_TOKENS
    if not given["do_sample"] or not given["temperature"]:
        raise ExecutorError("BadSetting", "generation: PPO learns from answers that are sampled; set do_sample and a temperature above 0")
    return {**given, "max_new_tokens": longest}


def _updates(settings: PpoSettings, prompts: int, processes: int) -> int:
    if not prompts:
        raise ExecutorError("NoData", "the data has no rows")
    if settings.max_steps > 0:
        return settings.max_steps
    return max(1, math.ceil(settings.num_train_epochs * prompts / (settings.per_device_train_batch_size * processes)))


def _finished(about: Trained, course: Course, at: Progressed, seconds: float) -> Result:
    learner, context = course.learner, course.context
    policy = learner.bare.policy
    final = final_folder(policy, context)
    best = None if at.best_metric is None else (at.best_metric, at.best_step)
    if best is not None:
        ppo_checkpoint.take_best(context.artifacts / "checkpoints", learner.bare)
    learned = [point for point in at.history if "reward" in point]
    told = {
        "steps": at.step, "epochs": round(at.step * an_update(learner) / about.rows, 4), "first_reward": learned[0]["reward"] if learned else None,
        "final_reward": learned[-1]["reward"] if learned else None, "final_kl": learned[-1]["kl"] if learned else None,
        **outcome(at.history, best, stopped_early=at.step < course.updates), **course.meter.totals(), "history": at.history,
    }  # fmt: skip
    if learner.settings.save_model:
        checkpoints = None if learner.settings.keep_checkpoints else context.artifacts / "checkpoints"
        save_final(policy, learner.tokenizer, final, checkpoints, replace(about, result=told, is_adapter=hasattr(policy, "peft_config")))
    return Result(
        {
            "ok": True,
            "task_id": about.task,
            "model": about.model,
            "training": told,
            **({f"{final.name}_path": context.final_path(final)} if final.is_dir() else {}),
            "output_dir": str(context.final_folder),
            "usage": of_training(at.tokens, at.sampled_tokens, seconds),
        },
        files=True,
    )  # fmt: skip
