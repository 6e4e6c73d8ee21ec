"""How a PPO training goes on prompts that it does not learn from: their reward and how far their answers stray, at the moments that
`training` asks for; which weights were best; and when it gets no better any more. What is held out, and the words for it, are those of every
training (`evaluation.py`); when it is enough is the rule of the library that the other trainings use.

The answers are drawn with random numbers of their own, the same each time: two evaluations differ by the weights alone, and a training
learns the same with evaluations as without.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mloc.executors.contract import ExecutorError
from mloc.executors.ranks import any_rank
from mloc.executors.rows.rows import Row
from mloc.executors.training.evaluation import Evaluation
from mloc.executors.training.ppo.ppo_checkpoint import Progressed
from mloc.executors.training.ppo.ppo_ranks import summed
from mloc.executors.training.ppo.ppo_settings import PpoSettings
from mloc.executors.training.ppo.ppo_update import Learner, answered, strayed

PREFIX = "eval_"
MEASURED = ("eval_reward", "eval_reward_std", "eval_kl", "eval_answer_tokens", "eval_ended")


def best_metric_of(settings: PpoSettings, terms: Sequence[str]) -> str:
    """The metric that tells the best weights. `terms`: names of the reward's parts. Raises ExecutorError for one that is not measured."""
    wanted = settings.metric_for_best_model or MEASURED[0]
    known = (*MEASURED, *(f"{PREFIX}rewards/{term}" for term in terms if len(terms) > 1))
    metric = wanted if wanted.startswith(PREFIX) else f"{PREFIX}{wanted}"
    if metric not in known:
        raise ExecutorError("BadSetting", f"training.metric_for_best_model: PPO measures no {wanted!r}; there are: {', '.join(known)}")
    return metric


def evaluate(learner: Learner, prompts: Sequence[tuple[Row, str]], stopping: Callable[[], bool]) -> dict[str, float] | None:
    """The metrics of one answer to each prompt, which the ranks share between them; None where it was stopped on the way."""
    accelerator, settings = learner.accelerator, learner.settings
    own = list(prompts[accelerator.process_index :: accelerator.num_processes])
    sums = dict.fromkeys([*(f"rewards/{term.name}" for term in learner.terms), "reward", "squares", "kl", "answer_tokens", "ended"], 0.0)
    size = settings.per_device_eval_batch_size or settings.per_device_train_batch_size
    is_stopped = False
    with _random_numbers(settings.seed + accelerator.process_index, accelerator.device):
        for first in range(0, len(own), size):
            if (found := _measured(learner, own[first : first + size], stopping)) is None:
                is_stopped = True
                break
            sums = {name: value + found[name] for name, value in sums.items()}
    if any_rank(is_stopped):
        return None
    means = {name: value / len(prompts) for name, value in summed(sums, accelerator).items()}
    means["reward_std"] = math.sqrt(max(0.0, means.pop("squares") - means["reward"] ** 2))
    if len(learner.terms) == 1:
        means.pop(f"rewards/{learner.terms[0].name}")
    return {f"{PREFIX}{name}": float(f"{value:.6g}") for name, value in means.items()}


def is_new_best(at: Progressed, value: float, evaluation: Evaluation, settings: PpoSettings) -> bool:
    """Notes an evaluation in `at`; whether no weights before were as good as these."""
    if evaluation.patience is not None:
        from transformers import EarlyStoppingCallback

        rule = EarlyStoppingCallback(evaluation.patience, evaluation.threshold)
        rule.early_stopping_patience_counter = at.worse
        rule.check_metric_value(settings, at, None, value)  # reads greater_is_better and best_metric
        at.worse = rule.early_stopping_patience_counter
    if at.best_metric is not None and not (value > at.best_metric if settings.greater_is_better else value < at.best_metric):
        return False
    at.best_metric, at.best_step = value, at.step
    return True


def is_enough(at: Progressed, evaluation: Evaluation) -> bool:
    """Whether it has got no better for as many evaluations as the task has patience for."""
    return evaluation.patience is not None and at.worse >= evaluation.patience


def is_due(strategy: str, every: float, at: int, updates: int, an_epoch: float) -> bool:
    """Whether something is to be done after update `at`. `every`: updates, or below 1 a share of all; `an_epoch`: updates of a pass."""
    if at < 1 or strategy not in ("steps", "epoch"):
        return False
    if strategy == "steps":
        return at % (max(1, math.ceil(every * updates)) if every < 1 else int(every)) == 0
    return at == updates or int(at / an_epoch) > int((at - 1) / an_epoch)


def _measured(learner: Learner, batch: list[tuple[Row, str]], stopping: Callable[[], bool]) -> dict[str, float] | None:
    """The sums over a batch."""
    if (found := answered(learner, batch, stopping)) is None:
        return None
    rollouts, totals, terms = found
    sums = {name: mean * len(batch) for name, mean in terms.items()}
    return sums | {
        "reward": sum(totals), "squares": sum(total**2 for total in totals), "kl": float(strayed(learner, rollouts).sum()),
        "answer_tokens": float(rollouts.mask.sum()), "ended": float(rollouts.ended.float().sum()),
    }  # fmt: skip


@contextlib.contextmanager
def _random_numbers(seed: int, device: Any) -> Iterator[None]:
    """Random numbers from the seed within; afterwards they go on as if it had not been."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
