"""One update of PPO: sample answers, score them, estimate advantages, and learn from the batch in mini-batches."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from mloc.executors.ranks import any_rank
from mloc.executors.rows.rows import Row, conversation
from mloc.executors.training.ppo.ppo_checkpoint import Progressed
from mloc.executors.training.ppo.ppo_math import advantages_of, masked_mean, policy_loss, steered_kl_coef, token_rewards, value_loss, whitened
from mloc.executors.training.ppo.ppo_ranks import of_all_ranks
from mloc.executors.training.ppo.ppo_rollouts import Rollouts, sample
from mloc.executors.training.ppo.ppo_settings import PpoSettings
from mloc.executors.training.rewards.reward_terms import Answer, Term, total_rewards


class Learner(Struct):
    """Everything that an update works with. `model` is the policy with its value head, as accelerate wrapped it."""

    settings: PpoSettings
    accelerator: Any
    model: Any
    reference: Any  # None: the policy with its adapter off
    tokenizer: Any
    optimizer: Any
    scheduler: Any
    terms: list[Term]
    sampling: dict[str, Any]

    @property
    def bare(self) -> Any:
        """The policy with its value head, unwrapped."""
        return self.accelerator.unwrap_model(self.model)


class Experience(Struct, frozen=True):
    """What a batch of rollouts teaches; tensors of shape (rollouts, tokens)."""

    logprobs: Any
    values: Any
    advantages: Any
    returns: Any


def update(learner: Learner, batch: list[tuple[Row, str]], at: Progressed, stopping: Callable[[], bool]) -> dict[str, float] | None:
    """One update's metrics; None where it was stopped before any weight was changed."""
    began = time.monotonic()
    settings = learner.settings
    found = answered(learner, batch, stopping)
    if any_rank(found is None) or found is None:
        return None
    rollouts, totals, terms = found
    experience, told = _experience(learner, rollouts, totals, at.kl_coef)
    learned = _learn(learner, rollouts, experience)
    tokens = int(rollouts.attention.sum())
    told |= {
        "reward": sum(totals) / len(totals), "reward_std": _deviation(totals), "kl_coef": at.kl_coef, **(terms if len(terms) > 1 else {}), **learned,
        "learning_rate": learner.scheduler.get_last_lr()[0], "tokens_per_sec": tokens / (time.monotonic() - began),
        "tokens": tokens, "sampled_tokens": int(rollouts.mask.sum()),
        "answer_tokens": float(rollouts.mask.sum(1).mean()), "ended": float(rollouts.ended.float().mean()),
    }  # fmt: skip
    told = of_all_ranks(told, learner.accelerator)
    at.tokens += round(told.pop("tokens"))
    at.sampled_tokens += round(told.pop("sampled_tokens"))
    learner.scheduler.step()
    if settings.adap_kl_ctrl:
        count = len(batch) * learner.accelerator.num_processes
        at.kl_coef = steered_kl_coef(at.kl_coef, told["kl"], settings.target, count, settings.horizon)
    return {name: float(f"{value:.6g}") for name, value in told.items()}


def answered(
    learner: Learner, batch: list[tuple[Row, str]], stopping: Callable[[], bool]
) -> tuple[Rollouts, list[float], dict[str, float]] | None:
    """(an answer to each prompt, the reward of each, each term's mean); None where it was stopped on the way."""
    prompts = [text for _, text in batch]
    with learner.accelerator.autocast():
        rollouts = sample(learner.bare.policy, learner.tokenizer, prompts, learner.sampling, learner.settings.max_length, stopping)
    if rollouts is None or stopping():
        return None
    answers = [Answer(conversation(row) or [], text, row) for (row, _), text in zip(batch, rollouts.texts, strict=True)]
    totals, terms = total_rewards(learner.terms, answers)
    return None if stopping() else (rollouts, totals, terms)  # a reward that was asked to stop says nothing that could be learned from


def strayed(learner: Learner, rollouts: Rollouts) -> Any:
    """How far each answer is from what the model that training started with would say: the log-ratio summed over its tokens."""
    import torch

    with torch.no_grad():
        parts = _parts(len(rollouts.sequences), learner.settings)
        logprobs = torch.cat([_forward(learner, learner.bare, rollouts.rows(part))[0] for part in parts])
        reference = torch.cat([_reference(learner, rollouts.rows(part)) for part in parts])
        return _straying(logprobs, reference, rollouts)


def _straying(logprobs: Any, reference: Any, rollouts: Rollouts) -> Any:
    return ((logprobs - reference) * rollouts.mask).sum(1)


def _experience(learner: Learner, rollouts: Rollouts, totals: list[float], kl_coef: float) -> tuple[Experience, dict[str, float]]:
    import torch

    settings = learner.settings
    with torch.no_grad():
        passes = [_forward(learner, learner.bare, rollouts.rows(part)) for part in _parts(len(totals), settings)]
        logprobs, values, entropies = (torch.cat(of) for of in zip(*passes, strict=True))
        reference = torch.cat([_reference(learner, rollouts.rows(part)) for part in _parts(len(totals), settings)])
        scores = torch.tensor(totals, device=logprobs.device)
        if settings.missing_eos_penalty is not None:
            scores = scores - settings.missing_eos_penalty * (~rollouts.ended).float()
        rewards = token_rewards(scores, logprobs, reference, rollouts.mask, kl_coef)
        if settings.whiten_rewards:
            rewards = whitened(rewards, rollouts.mask, shift_mean=False)
        advantages, returns = advantages_of(rewards, values, rollouts.mask, settings.gamma, settings.lam)
        kl = _straying(logprobs, reference, rollouts).mean()
    told = {"kl": float(kl), "entropy": float(masked_mean(entropies, rollouts.mask))}
    return Experience(logprobs, values * rollouts.mask, whitened(advantages, rollouts.mask), returns), told


def _learn(learner: Learner, rollouts: Rollouts, experience: Experience) -> dict[str, float]:
    """Go over the rollouts in mini-batches. Ends early when the policy has moved further than `target_kl` allows."""
    settings, told = learner.settings, {}
    for _ in range(settings.ppo_epochs):
        parts = _parts(len(rollouts.sequences), settings, shuffle=True)
        moved = 0.0
        for number, part in enumerate(parts, 1):
            is_step = number % settings.gradient_accumulation_steps == 0 or number == len(parts)
            with contextlib.nullcontext() if is_step else learner.accelerator.no_sync(learner.model):
                told = _loss_backward(learner, rollouts.rows(part), part, experience)
            moved = max(moved, told["approx_kl"])
            if is_step:
                learner.accelerator.clip_grad_norm_(learner.model.parameters(), settings.max_grad_norm)
                learner.optimizer.step()
                learner.optimizer.zero_grad()
        if settings.target_kl is not None and any_rank(moved > 1.5 * settings.target_kl):
            break
    return told


def _loss_backward(learner: Learner, rollouts: Rollouts, part: Any, experience: Experience) -> dict[str, float]:
    settings, mask = learner.settings, rollouts.mask
    logprobs, values, _ = _forward(learner, learner.model, rollouts)
    policy, clipped, moved = policy_loss(logprobs, experience.logprobs[part], experience.advantages[part], mask, settings.cliprange)
    value = value_loss(values, experience.values[part], experience.returns[part], mask, settings.cliprange_value)
    loss = policy + settings.vf_coef * value
    learner.accelerator.backward(loss / settings.gradient_accumulation_steps)
    told = {"loss": loss, "policy_loss": policy, "value_loss": value, "clipped": clipped, "approx_kl": moved}
    return {name: float(tensor.detach()) for name, tensor in told.items()}


def _forward(learner: Learner, model: Any, rollouts: Rollouts) -> Any:
    return model(rollouts.sequences, rollouts.attention, rollouts.width, learner.sampling["temperature"])


def _reference(learner: Learner, rollouts: Rollouts) -> Any:
    """Log-probabilities of the answers under the model that training started with."""
    bare = learner.bare
    policy = bare.policy
    if learner.reference is None:
        with policy.disable_adapter():
            return _forward(learner, bare, rollouts)[0]
    bare.policy = learner.reference
    try:
        return _forward(learner, bare, rollouts)[0]
    finally:
        bare.policy = policy


def _parts(count: int, settings: PpoSettings, *, shuffle: bool = False) -> list[Any]:
    import torch

    order = torch.randperm(count) if shuffle else torch.arange(count)
    return list(order.split(settings.mini_batch_size or count))


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
