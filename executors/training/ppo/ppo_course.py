"""Update after update: what is told, evaluated and saved between them, and when it is over."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from msgspec import Struct

from mloc.executors.contract import Checkpoint, Context, Progress, Report
from mloc.executors.meters import Meter
from mloc.executors.ranks import rank
from mloc.executors.rows.rows import Row
from mloc.executors.training.evaluation import Evaluation
from mloc.executors.training.ppo import ppo_checkpoint
from mloc.executors.training.ppo.ppo_checkpoint import Progressed
from mloc.executors.training.ppo.ppo_evaluation import best_metric_of, evaluate, is_due, is_enough, is_new_best
from mloc.executors.training.ppo.ppo_ranks import random_states
from mloc.executors.training.ppo.ppo_update import Learner, update
from mloc.executors.training.training_reports import refuse_divergence

Prompts = list[tuple[Row, str]]
SHOWN = ("reward", "kl", "loss", "entropy", "tokens_per_sec", "eval_reward", "eval_kl", "eval_ended")


class Course(Struct):
    """What a training goes through. `kept`: prompts that are only evaluated on."""

    learner: Learner
    prompts: Prompts
    kept: Prompts
    evaluation: Evaluation
    updates: int
    meter: Meter
    context: Context

    def is_over(self, at: Progressed) -> bool:
        return at.step >= self.updates or is_enough(at, self.evaluation)

    def is_due(self, strategy: str, every: float, step: int) -> bool:
        return is_due(strategy, every, step, self.updates, len(self.prompts) / an_update(self.learner))


def an_update(learner: Learner) -> int:
    """How many rollouts an update takes, of all ranks together."""
    return learner.settings.per_device_train_batch_size * learner.accelerator.num_processes


def go_through(course: Course, at: Progressed) -> Iterator[Report]:
    """On from `at`, until it is over or until it is asked to stop; then there is a checkpoint."""
    settings, saved = course.learner.settings, at.step
    while True:
        random = ppo_checkpoint.random_state()
        is_stopped = not (yield from _evaluated(course, at))
        if not is_stopped and course.is_over(at):
            return
        if not is_stopped and at.step != saved and course.is_due(settings.save_strategy, settings.save_steps, at.step):
            yield from _checkpoint(course, at, random)
            saved = at.step
        metrics = None if is_stopped else update(course.learner, _batch(course, at.step), at, course.context.stopping)
        if metrics is None:  # stopped before a weight was changed
            yield from _checkpoint(course, at, random)
            return
        at.step += 1
        refuse_divergence(metrics, at.step)
        if at.step % settings.logging_steps == 0 or at.step == course.updates:
            yield _told(course, at, metrics)


def _evaluated(course: Course, at: Progressed) -> Generator[Report, None, bool]:
    """Evaluate, where that is due here and was not done yet; False where it was stopped on the way."""
    settings, learner = course.learner.settings, course.learner
    is_wanted = course.is_due(settings.eval_strategy, settings.eval_steps, at.step) or (at.step == 0 and settings.eval_on_start)
    if not course.kept or not is_wanted or at.evaluated >= at.step:
        return True
    metrics = evaluate(learner, course.kept, course.context.stopping)
    if metrics is None:
        return False
    at.evaluated = at.step
    if settings.load_best_model_at_end:
        value = metrics[best_metric_of(settings, [term.name for term in learner.terms])]
        if is_new_best(at, value, course.evaluation, settings) and rank() == 0:
            ppo_checkpoint.save_best(course.context.artifacts / "checkpoints", learner.bare)
    yield _told(course, at, metrics)
    return True


def _told(course: Course, at: Progressed, metrics: dict[str, float]) -> Progress:
    """One more point of the curves."""
    at.history.append({"step": at.step, **metrics})
    course.learner.accelerator.log(metrics, step=at.step)
    line = f"step {at.step}/{course.updates}  " + "  ".join(f"{name} {metrics[name]:.4g}" for name in SHOWN if name in metrics)
    return Progress((line,), at.step, course.updates, metrics | course.meter.metrics())


def _batch(course: Course, step: int) -> Prompts:
    """This process' prompts of an update: each pass goes over all prompts in an order of its own, which the seed fixes."""
    import torch

    settings, prompts, accelerator = course.learner.settings, course.prompts, course.learner.accelerator
    size = settings.per_device_train_batch_size
    first = (step * accelerator.num_processes + accelerator.process_index) * size
    picked: Prompts = []
    while len(picked) < size:
        epoch, place = divmod(first + len(picked), len(prompts))
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch))
        picked += [prompts[int(at)] for at in order[place : place + size - len(picked)]]
    return picked


def _checkpoint(course: Course, at: Progressed, random: dict[str, Any]) -> Iterator[Checkpoint]:
    learner = course.learner
    of_ranks = random_states(random, learner.accelerator)
    if rank() != 0:
        return
    folder = course.context.artifacts / "checkpoints"
    place, digest = ppo_checkpoint.save(folder, learner.bare, learner.optimizer, learner.scheduler, at, of_ranks, learner.accelerator.scaler)
    ppo_checkpoint.keep_newest(folder, learner.settings.save_total_limit)
    yield Checkpoint(at.step, place, digest)
