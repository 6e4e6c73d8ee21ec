"""Vectors and cross-encoders by vLLM, as the same `Encoder` and `Reranker` that transformers gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from mloc.core.language.model_spec import ModelSource, ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.inference.vllm_model import served_model
from mloc.executors.models.scratch_model import Head, make_scratch_model
from mloc.executors.models.weights import find_weights
from mloc.executors.pooling.encoder import Encoded, Encoder, Kind, embedding_of, of_length_one, prompts_of, with_adapter
from mloc.executors.pooling.model_head import head_of
from mloc.executors.pooling.pooling_files import PoolingFiles, pooling_files
from mloc.executors.pooling.reranker import Reranker, by_angle, chances, check_labels, pairs_encoded
from mloc.executors.pooling.vllm_pooling import logits, pooling_identities, start_pooling, vectors, write_whole_classifier

_POOLING = {"mean": "MEAN", "cls": "CLS", "last": "LAST"}
_LAYERS = ("Dense",)  # of sentence-transformers, that vLLM has itself


def encoder_identities(spec: TaskSpec, source: ModelSource | None, context: Context) -> list[str]:
    """What a warm engine may be made of to give the task's vectors."""
    asked = _of(spec, source)
    return pooling_identities(asked, context, _pooler(asked, context))


def start_encoder(spec: TaskSpec, source: ModelSource | None, context: Context) -> VllmEngine:
    """Raises ExecutorError."""
    asked = _of(spec, source)
    return start_pooling(asked, context, _pooler(asked, context), lambda folder: _write(asked, context, folder, "none"))


def open_encoder(spec: TaskSpec, source: ModelSource | None, engine: VllmEngine, context: Context) -> Encoder:
    """The engine's vectors, for this task."""
    asked = _of(spec, source)
    served, files, embedding = served_model(asked, context), _files(asked, context), embedding_of(spec)
    prompts = prompts_of(embedding, files.prompts)
    engine.tokenizer.truncation_side = "right"
    longest = min(limit for limit in (engine.max_length, files.max_seq_length, engine.tokenizer.model_max_length) if limit)

    def encode(texts: Sequence[str], kind: Kind, normalize: bool) -> Encoded:
        tokens = engine.tokenizer([prompts[kind] + text for text in texts], truncation=True, max_length=longest)["input_ids"]
        made = vectors(engine, tokens)
        return Encoded(of_length_one(made) if normalize or files.normalize else made, [len(ids) for ids in tokens])

    dimension = int(encode(["a"], "document", False).vectors.shape[1])
    identity = f"{served.name}@{served.revision or ''} {_pooler(asked, context)} {prompts}"
    return Encoder(encode, dimension, served.name, identity, engine.tokenizer, "vllm", engine.batch)


def reranker_identities(spec: TaskSpec, source: ModelSource | None, context: Context) -> list[str]:
    """As `encoder_identities`, for passages that are to be sorted."""
    asked = _reranking(spec, source)
    return pooling_identities(asked, context, {}) if _is_classifier(asked, context) else encoder_identities(spec, source, context)


def start_reranker(spec: TaskSpec, source: ModelSource | None, context: Context) -> VllmEngine:
    """A classifier is a cross-encoder, any other model gives vectors. Raises ExecutorError."""
    asked = _reranking(spec, source)
    if not _is_classifier(asked, context):
        return start_encoder(spec, source, context)
    return start_pooling(asked, context, {}, lambda folder: _write(asked, context, folder, "score"))


def open_reranker(spec: TaskSpec, source: ModelSource | None, engine: VllmEngine, context: Context) -> Reranker:
    """The engine's scores, for this task."""
    asked = _reranking(spec, source)
    if not _is_classifier(asked, context):
        return by_angle(open_encoder(spec, source, engine, context))
    name = served_model(asked, context).name
    check_labels(engine.model_config, name)
    engine.tokenizer.truncation_side = "right"
    longest = min(engine.max_length, engine.tokenizer.model_max_length)
    has_types = getattr(engine.model_config, "type_vocab_size", 0) > 1  # as BERT, which is told which text a token belongs to

    def scores(question: str, passages: Sequence[str]) -> tuple[list[float], int]:
        if not passages:
            return [], 0
        encoded = pairs_encoded(question, list(passages), engine.tokenizer, longest)
        tokens = encoded["input_ids"]
        seconds = [_second(types) for types in encoded["token_type_ids"]] if has_types and "token_type_ids" in encoded else ()
        return chances(logits(engine, tokens, seconds)), sum(map(len, tokens))

    return Reranker(name, scores, "vllm")


def _second(types: list[int]) -> int:
    """Where the second text begins, of types that are 0 for the first and 1 for the second."""
    return types.index(1) if 1 in types else len(types)


def _is_classifier(asked: TaskSpec, context: Context) -> bool:
    return _is_scratch(asked) or head_of(asked, context) == "score"


def _is_scratch(asked: TaskSpec) -> bool:
    return isinstance(asked.model.source, ScratchSource) and asked.checkpoint.load is None


def _of(spec: TaskSpec, source: ModelSource | None) -> TaskSpec:
    return replace(spec, model=replace(spec.model, source=source, adapters=()))


def _reranking(spec: TaskSpec, source: ModelSource | None) -> TaskSpec:
    """With its adapters: one of them may be the classifier."""
    return replace(spec, model=replace(spec.model, source=source))


def _files(asked: TaskSpec, context: Context) -> PoolingFiles:
    if _is_scratch(asked):
        return PoolingFiles()
    weights = find_weights(asked, context)
    return PoolingFiles() if weights.adapter is not None else pooling_files(weights, _LAYERS)


def _pooler(asked: TaskSpec, context: Context) -> dict[str, str]:
    """The task's way, else the model's own, else the mean, as with transformers."""
    return {"seq_pooling_type": _POOLING[embedding_of(asked).pooling or _files(asked, context).pooling]}


def _write(asked: TaskSpec, context: Context, folder: Path, head: Head) -> None:
    """Made with transformers in main memory: from scratch, or with the adapter merged in."""
    source = asked.model.source
    if isinstance(source, ScratchSource) and _is_scratch(asked):
        model, tokenizer = make_scratch_model(source, (), head)
    elif head == "score":
        return write_whole_classifier(asked, context, folder)
    else:
        model, tokenizer = with_adapter(asked, replace(context, devices=()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
