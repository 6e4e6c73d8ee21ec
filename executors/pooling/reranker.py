"""How well passages answer a question: by a cross-encoder, which reads both together, or by the angle between their vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.classifiers import load_classifier_of, scoring_weights
from mloc.executors.models.damage import unreadable
from mloc.executors.models.model_loading import device_of, model_name, not_loaded, pretrained_settings
from mloc.executors.models.quantization import NO_BITS, refuse_bits
from mloc.executors.models.scratch_model import make_scratch_model
from mloc.executors.pooling.encoder import Encoder, embedding_of, load_encoder, named_source
from mloc.executors.pooling.model_head import head_of


class Reranker(Struct, frozen=True):
    """`scores(question, passages)` → a number for each, and the tokens read. Of a cross-encoder they lie between 0 and 1. `library`: what
    computes them."""

    name: str
    scores: Callable[[str, Sequence[str]], tuple[list[float], int]]
    library: str = "transformers"


def load_reranker(spec: TaskSpec, context: Context) -> Reranker:
    """The model that `model.source` names: a classifier is a cross-encoder, any other gives vectors. Raises ExecutorError."""
    batch_size, source = embedding_of(spec).batch_size, named_source(spec)
    refuse_bits(spec.model, NO_BITS)
    if isinstance(source, ScratchSource):
        model, tokenizer = make_scratch_model(source, (), "score")
        return _cross_encoder(model.to(device_of(context)), tokenizer, batch_size, source.identifier or "scratch")
    asked = replace(spec, model=replace(spec.model, source=source))
    if head_of(asked, context) != "score":
        return by_angle(load_encoder(spec, source, context))
    return _loaded(asked, batch_size, context)


def _loaded(spec: TaskSpec, batch_size: int, context: Context) -> Reranker:
    weights, settings = scoring_weights(spec, context), pretrained_settings(spec, context)
    settings.pop("trust_remote_code", None)
    settings.pop("revision", None)
    try:
        model, tokenizer = load_classifier_of(weights, settings)
    except unreadable() as error:
        raise not_loaded(weights, error) from error
    return _cross_encoder(model.to(device_of(context)), tokenizer, batch_size, model_name(weights, context))


def _cross_encoder(model: Any, tokenizer: Any, batch_size: int, name: str) -> Reranker:
    check_labels(model.config, name)
    tokenizer.padding_side = "right"  # places are counted from the left
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    longest = min(limit for limit in limits if limit)

    def scores(question: str, passages: Sequence[str]) -> tuple[list[float], int]:
        import torch

        made: list[float] = []
        tokens = 0
        for at in range(0, len(passages), batch_size):
            part = list(passages[at : at + batch_size])
            encoded = pairs_encoded(question, part, tokenizer, longest, return_tensors="pt", padding=True).to(model.device)
            with torch.inference_mode():
                made += chances(model(**encoded).logits.float())
            tokens += int(encoded["attention_mask"].sum())
        return made, tokens

    return Reranker(name, scores)


def check_labels(config: Any, name: str) -> None:
    """Raises ExecutorError for a classifier that is no cross-encoder."""
    if config.num_labels > 2:
        raise ExecutorError("BadModel", f"{name} has {config.num_labels} labels; a model that sorts passages has one number for each")


def pairs_encoded(question: str, passages: list[str], tokenizer: Any, longest: int, **more: Any) -> Any:
    """The question beside each passage, whose end is left out where both are too long."""
    return tokenizer([question] * len(passages), passages, truncation="only_second" if longest < 1 << 20 else False, max_length=longest, **more)


def chances(logits: Any) -> list[float]:
    """Of one label or two, float [passages, labels], to a number between 0 and 1 for each passage."""
    import torch

    made: list[float] = (torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, -1)[:, 1]).tolist()
    return made


def by_angle(encoder: Encoder) -> Reranker:
    def scores(question: str, passages: Sequence[str]) -> tuple[list[float], int]:
        asked = encoder.encode([question], "query", True)
        found = encoder.encode(list(passages), "document", True)
        return (found.vectors @ asked.vectors[0]).tolist(), sum(asked.tokens) + sum(found.tokens)

    return Reranker(encoder.name, scores, encoder.library)
