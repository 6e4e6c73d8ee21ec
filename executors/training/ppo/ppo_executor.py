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
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Checkpoint, Context, ExecutorError, Progress, Report, Result
from mloc.executors.ranks import in_rank, own_devices, rank
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.rows import Row, texts
from mloc.executors.training.meters import Meter
from mloc.executors.training.model_card import Trained
from mloc.executors.training.ppo import ppo_checkpoint
from mloc.executors.training.ppo.ppo_checkpoint import Progressed
from mloc.executors.training.ppo.ppo_ranks import random_states
from mloc.executors.training.ppo.ppo_rollouts import actor_critic
from mloc.executors.training.ppo.ppo_settings import PpoSettings, ppo_settings
from mloc.executors.training.ppo.ppo_update import Learner, update
from mloc.executors.training.rank_launch import launch_of, run_ranks
from mloc.executors.training.rewards.reward_terms import Term, reward_terms, rewards_of
from mloc.executors.training.saved_checkpoints import usable_checkpoint
from mloc.executors.training.trackers import of_accelerate, tracked, trackers_of
from mloc.executors.training.trained_weights import adapter_of, final_folder, prepared, save_final
from mloc.executors.training.training_reports import refuse_divergence
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
    settings, notes = ppo_settings(spec, context)
    if not in_rank() and (launch := launch_of(spec, context)) is not None:
        yield from run_ranks(task, launch, context)
        return
    rows = list(load_rows(spec, context))
    yield Progress((*notes, f"{len(rows)} prompts; loading the models"))
    terms = reward_terms(rewards_of(spec), context)
    try:
        with tracked(trackers_of(spec.training) if rank() == 0 else [], task.task, context):
            yield from _trained(task, spec, settings, rows, terms, context, began)
    finally:
        for term in terms:
            term.close()


def _trained(
    task: RunTask, spec: TaskSpec, settings: PpoSettings, rows: Sequence[Row], terms: list[Term], context: Context, began: float
) -> Iterator[Report]:
    meter = Meter(own_devices(context))
    learner, prompts, name = _learner(spec, settings, rows, terms, context)
    updates = _updates(settings, len(prompts), learner.accelerator.num_processes)
    at = Progressed(kl_coef=settings.kl_coef)
    saved, notes = usable_checkpoint(context.checkpoint)
    yield Progress(tuple(notes))
    if saved is not None:
        ranks = (learner.accelerator.num_processes, learner.accelerator.process_index)
        at = ppo_checkpoint.restore(saved, learner.bare, learner.optimizer, learner.scheduler, *ranks)
    yield Progress((f"training from update {at.step} to {updates}",), at.step, updates)
    try:
        yield from _course(learner, prompts, at, updates, meter, context)
    finally:
        learner.accelerator.end_training()
    if at.step < updates:
        return
    about = Trained(task.task, task.task_type, spec, name, len(prompts), 0, settings.seed, {})
    if rank() == 0:
        yield _finished(about, learner, context, at, meter, time.monotonic() - began)
    else:
        yield Result({})  # rank 0 speaks for all


def _course(
    learner: Learner, prompts: list[tuple[Row, str]], at: Progressed, updates: int, meter: Meter, context: Context
) -> Iterator[Report]:
    """Update after update, until the last or until it is asked to stop; then there is a checkpoint."""
    settings = learner.settings
    while at.step < updates:
        random = ppo_checkpoint.random_state()
        metrics = update(learner, _batch(prompts, settings, at.step, learner.accelerator), at, context.stopping)
        if metrics is None:  # stopped before a weight was changed
            yield from _checkpoint(learner, context, at, random)
            return
        at.step += 1
        refuse_divergence(metrics, at.step)
        if at.step % settings.logging_steps == 0 or at.step == updates:
            at.history.append({"step": at.step, **metrics})
            learner.accelerator.log(metrics, step=at.step)
            yield Progress((_line(at, updates, metrics),), at.step, updates, metrics | meter.metrics())
        if settings.save_strategy == "steps" and at.step % settings.save_steps == 0 and at.step < updates:
            yield from _checkpoint(learner, context, at, ppo_checkpoint.random_state())


def _learner(
    spec: TaskSpec, settings: PpoSettings, rows: Sequence[Row], terms: list[Term], context: Context
) -> tuple[Learner, list[tuple[Row, str]], str]:
    """(everything that an update needs, each prompt with its chat marks, the model's name)."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from transformers import get_scheduler, set_seed

    AcceleratorState._reset_state(reset_partial_state=True)  # a host is warm: the task before may have wanted another precision
    set_seed(settings.seed)
    loaded = load_trainable(spec, context, texts(rows))
    policy, lora = prepared(loaded, adapter_of(spec))
    if lora is not None:
        from peft import get_peft_model

        policy = get_peft_model(policy, lora)
    reference = None if hasattr(policy, "peft_config") else copy.deepcopy(policy).eval().requires_grad_(False)
    if settings.gradient_checkpointing:
        policy.gradient_checkpointing_enable()
        policy.enable_input_require_grads()
    precision = "bf16" if settings.bf16 else "fp16" if settings.fp16 else "no"
    accelerator = Accelerator(cpu=not context.devices, mixed_precision=precision, **of_accelerate(spec.training))
    model = actor_critic(policy).eval()  # no dropout (Huang et al. 2024, detail 11); gradients flow all the same
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, eps=settings.adam_epsilon, weight_decay=settings.weight_decay)
    updates = _updates(settings, len(rows), accelerator.num_processes)
    warmup = math.ceil(settings.warmup_steps * updates) if settings.warmup_steps < 1 else int(settings.warmup_steps)
    scheduler = get_scheduler(settings.lr_scheduler_type, optimizer, warmup, updates)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.init_trackers("mloc")
    if accelerator.process_index:
        set_seed(settings.seed + accelerator.process_index)  # the same weights on every rank, and answers of its own
    learner = Learner(
        settings, accelerator, model, reference, loaded.tokenizer, optimizer, scheduler, terms, _sampling(spec, settings)
    )
    return learner, [(row, prompt_text(row, spec.inference, loaded.tokenizer)) for row in rows], loaded.name


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


def _batch(prompts: list[tuple[Row, str]], settings: PpoSettings, step: int, accelerator: Any) -> list[tuple[Row, str]]:
    """This process' prompts of an update: each pass goes over all prompts in an order of its own, which the seed fixes."""
    import torch

    size = settings.per_device_train_batch_size
    first = (step * accelerator.num_processes + accelerator.process_index) * size
    picked: list[tuple[Row, str]] = []
    while len(picked) < size:
        epoch, place = divmod(first + len(picked), len(prompts))
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch))
        picked += [prompts[int(at)] for at in order[place : place + size - len(picked)]]
    return picked


def _line(at: Progressed, updates: int, metrics: dict[str, float]) -> str:
    shown = ("reward", "kl", "loss", "entropy", "tokens_per_sec")
    return f"step {at.step}/{updates}  " + "  ".join(f"{name} {metrics[name]:.4g}" for name in shown)


def _checkpoint(learner: Learner, context: Context, at: Progressed, random: dict[str, Any]) -> Iterator[Checkpoint]:
    of_ranks = random_states(random, learner.accelerator)
    if rank() != 0:
        return
    folder = context.artifacts / "checkpoints"
    place, digest = ppo_checkpoint.save(folder, learner.bare, learner.optimizer, learner.scheduler, at, of_ranks)
    ppo_checkpoint.keep_newest(folder, learner.settings.save_total_limit)
    yield Checkpoint(at.step, place, digest)


def _finished(about: Trained, learner: Learner, context: Context, at: Progressed, meter: Meter, seconds: float) -> Result:
    policy = learner.bare.policy
    final = final_folder(policy, context)
    rewards = [point["reward"] for point in at.history]
    rollouts = at.step * learner.settings.per_device_train_batch_size * learner.accelerator.num_processes
    told = {
        "steps": at.step, "epochs": round(rollouts / about.rows, 4), "first_reward": rewards[0] if rewards else None,
        "final_reward": rewards[-1] if rewards else None, "final_kl": at.history[-1]["kl"] if at.history else None, **meter.totals(),
        "history": at.history,
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
            "usage": {
                "prompt_tokens": at.tokens, "completion_tokens": 0, "total_tokens": at.tokens, "latency_sec": round(seconds, 3), "num_requests": 0,
            },
        },
        files=True,
    )  # fmt: skip
