"""How well passages answer a question: by a cross-encoder, which reads both together, or by the angle between their vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.model_loading import device_of, model_name, not_loaded, pretrained_settings
from mloc.executors.models.scratch_model import make_scratch_model
from mloc.executors.models.weights import find_weights
from mloc.executors.pooling.encoder import Encoder, embedding_of, embedding_source, load_encoder, no_model
from mloc.executors.pooling.model_head import head_of


class Reranker(Struct, frozen=True):
    """`scores(question, passages)` → a number for each, and the tokens read. Of a cross-encoder they lie between 0 and 1."""

    name: str
    scores: Callable[[str, Sequence[str]], tuple[list[float], int]]


def load_reranker(spec: TaskSpec, context: Context) -> Reranker:
    """The model that `model.source` names: a classifier is a cross-encoder, any other gives vectors. Raises ExecutorError."""
    batch_size = embedding_of(spec).batch_size
    source = spec.model.source or embedding_source(embedding_of(spec))
    if source is None and spec.checkpoint.load is None:
        raise no_model("model.source with a type and an identifier")
    if isinstance(source, ScratchSource):
        model, tokenizer = make_scratch_model(source, (), "score")
        return _cross_encoder(model.to(device_of(context)), tokenizer, batch_size, source.identifier or "scratch")
    if head_of(spec, context) != "score":
        return _by_angle(load_encoder(spec, source, context))
    return _loaded(spec, batch_size, context)


def _loaded(spec: TaskSpec, batch_size: int, context: Context) -> Reranker:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    weights = find_weights(spec, context)
    settings = {**pretrained_settings(spec, context), "revision": weights.revision, "trust_remote_code": weights.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights.model, revision=weights.revision, trust_remote_code=weights.trust_remote_code)
        model = AutoModelForSequenceClassification.from_pretrained(weights.model, **settings)
    except (OSError, ValueError) as error:
        raise not_loaded(weights, error) from error
    return _cross_encoder(model.to(device_of(context)), tokenizer, batch_size, model_name(weights, context))


def _cross_encoder(model: Any, tokenizer: Any, batch_size: int, name: str) -> Reranker:
    if model.config.num_labels > 2:
        raise ExecutorError("BadModel", f"{name} has {model.config.num_labels} labels; a model that sorts passages has one number for each")
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
            encoded = tokenizer(
                [question] * len(part), part, return_tensors="pt", padding=True, truncation="only_second" if longest < 1 << 20 else False,
                max_length=longest,
            ).to(model.device)  # fmt: skip
            with torch.inference_mode():
                logits = model(**encoded).logits.float()
            chances = torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, -1)[:, 1]
            made += chances.tolist()
            tokens += int(encoded["attention_mask"].sum())
        return made, tokens

    return Reranker(name, scores)


def _by_angle(encoder: Encoder) -> Reranker:
    def scores(question: str, passages: Sequence[str]) -> tuple[list[float], int]:
        asked = encoder.encode([question], "query", True)
        found = encoder.encode(list(passages), "document", True)
        return (found.vectors @ asked.vectors[0]).tolist(), sum(asked.tokens) + sum(found.tokens)

    return Reranker(encoder.name, scores)
