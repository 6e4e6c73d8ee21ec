"""What scores an answer with a model: one that an earlier stage trained on preferences, or a classifier of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mloc.core.language.model_spec import HuggingFaceSource, Model, StageSource
from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import RewardModel
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.classifiers import load_classifier_of
from mloc.executors.models.damage import damaged_file, unreadable
from mloc.executors.models.model_loading import device_of, not_loaded
from mloc.executors.models.weights import Weights, find_weights

Turn = dict[str, Any]
Scorer = Callable[[Sequence[list[Turn]], Sequence[str]], list[float]]
"""From conversations up to the answer, and the answers, to a score each."""

GOOD_LABELS = ("positive", "pos", "good", "label_1", "accept", "safe", "true", "yes")
AT_ONCE = 32  # texts of one forward pass


def load_scorer(wanted: RewardModel, context: Context) -> Scorer:
    """A scorer over the model that `wanted` names. Raises ExecutorError."""
    return scorer_on(reward_weights(wanted, context), context, trained=wanted.type == "trained")


def scorer_on(weights: Weights, context: Context, *, trained: bool = False) -> Scorer:
    """A scorer over a classifier. Raises ExecutorError.

    A model that was trained on preferences (type `trained`, or one logit and a chat template) scores the whole conversation with its own
    template; a classifier scores question and answer as plain text, and its score is the logit of the good label.
    """
    import torch

    model, tokenizer = _loaded(weights, context)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length)

    def logits(texts: Sequence[str], has_marks: bool) -> Any:
        made = []
        for start in range(0, len(texts), AT_ONCE):
            encoded = tokenizer(
                texts[start : start + AT_ONCE], return_tensors="pt", padding=True, truncation=longest < 1 << 20, max_length=longest,
                add_special_tokens=not has_marks,
            ).to(model.device)  # fmt: skip
            with torch.no_grad():
                made.append(model(**encoded).logits.float())
        return torch.cat(made)

    return scorer_of(model.config, tokenizer, weights.model, logits, trained=trained)


def scorer_of(config: Any, tokenizer: Any, named: str, logits: Callable[[Sequence[str], bool], Any], *, trained: bool = False) -> Scorer:
    """The same over a classifier wherever it runs. `logits(texts, has_marks)` → float [texts, labels]; `has_marks`: the texts have the special
    tokens already. Raises ExecutorError where none of its labels is the good one."""
    label = _label(config, named)
    as_chat = tokenizer.chat_template is not None and (trained or config.num_labels == 1)

    def score(conversations: Sequence[list[Turn]], answers: Sequence[str]) -> list[float]:
        written = [_text(tokenizer, turns, answer, as_chat) for turns, answer in zip(conversations, answers, strict=True)]
        return [float(value) for value in logits(written, as_chat)[:, label]] if written else []

    return score


def reward_weights(wanted: RewardModel, context: Context) -> Weights:
    """Where its weights lie: what `source` says, a stage's output, a folder, or a hub's repository."""
    source = wanted.source
    if source is None:
        is_made = wanted.task_id or wanted.path or wanted.url or wanted.identifier in context.inputs
        made = StageSource(identifier=wanted.identifier, task_id=wanted.task_id, path=wanted.path, url=wanted.url)
        source = made if is_made else HuggingFaceSource(wanted.identifier)
    return find_weights(TaskSpec("reward", model=Model(source=source)), context)


def _loaded(weights: Weights, context: Context) -> tuple[Any, Any]:
    try:
        model, tokenizer = load_classifier_of(weights, {"dtype": "bfloat16" if context.devices else "float32"})
    except unreadable() as error:
        if not Path(weights.model).is_dir() or damaged_file(weights.model) is not None:
            raise not_loaded(weights, error) from error
        reason = str(error).strip().partition("\n")[0]
        raise ExecutorError("ModelNotLoaded", f"reward_model: {weights.model} could not be loaded as a classifier: {reason}") from error
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    return model.to(device_of(context)).eval().requires_grad_(False), tokenizer


def _text(tokenizer: Any, turns: list[Turn], answer: str, as_chat: bool) -> str:
    if as_chat:
        return str(tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False))
    asked = turns[-1]["content"] if turns else ""
    return f"{asked} {answer}".strip()


def _label(config: Any, named: str) -> int:
    if config.num_labels == 1:
        return 0
    labels = {str(name).lower(): int(at) for at, name in (config.id2label or {}).items()}
    for good in GOOD_LABELS:
        if good in labels:
            return labels[good]
    if config.num_labels == 2:
        return 1
    raise ExecutorError("BadModel", f"reward_model: {named} has the labels {', '.join(labels)}, and none of them says which is good")
