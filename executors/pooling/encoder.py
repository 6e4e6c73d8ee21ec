"""Texts into vectors: a model in the layout of sentence-transformers with that library, where it is installed; any other, and where it is not,
with transformers, by the pooling that the model's files name (else the mean).

Whatever makes the vectors is an `Encoder`; vLLM's is in `vllm_encoder`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.inference_spec import Embedding
from mloc.core.language.model_spec import HuggingFaceSource, Model, ModelSource, ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.damage import unreadable
from mloc.executors.models.model_loading import device_of, load_model, model_name, not_loaded, pretrained_settings
from mloc.executors.models.quantization import NO_BITS, refuse_bits
from mloc.executors.models.scratch_model import make_scratch_model
from mloc.executors.models.weights import Weights, find_weights
from mloc.executors.pooling.pooling_files import PoolingFiles, is_sentence_transformer, pooling_files

Kind = Literal["query", "document"]


class Encoded(Struct, frozen=True):
    """`vectors`: float32 [texts, dimension]. `tokens` of each text, as many as the model read."""

    vectors: Any
    tokens: list[int]


class Encoder(Struct, frozen=True):
    """`encode(texts, kind, normalize)`; `identity` says which vectors it makes: weights and everything else that changes them. `library`: what
    computes them; `at_once`: as many texts as it is to have at a time, where the task asks for fewer."""

    encode: Callable[[Sequence[str], Kind, bool], Encoded]
    dimension: int
    name: str
    identity: str
    tokenizer: Any
    library: str = "transformers"
    at_once: int = 1


def embedding_of(spec: TaskSpec) -> Embedding:
    """How the task embeds: `retrieval.embedding`, which a file may also write as `embedding`."""
    return spec.retrieval.embedding if spec.retrieval is not None else Embedding()


def load_encoder(spec: TaskSpec, source: ModelSource | None, context: Context) -> Encoder:
    """The encoder that `source` names, with the settings of the task's `embedding`. Raises ExecutorError."""
    embedding = embedding_of(spec)
    asked = replace(spec, model=replace(spec.model, source=source, adapters=()))
    device = embedding.device or device_of(context)
    refuse_bits(asked.model, NO_BITS)
    if isinstance(source, ScratchSource):
        model, tokenizer = make_scratch_model(source, (), "none")
        return _plain(model.to(device), tokenizer, PoolingFiles(), embedding, source.identifier or "scratch", repr(source))
    weights = find_weights(asked, context)
    name = model_name(weights, context)
    identity = f"{name}@{weights.revision or ''}"
    if weights.adapter is not None:
        model, tokenizer = with_adapter(asked, context)
        return _plain(model.to(device), tokenizer, PoolingFiles(), embedding, name, identity)
    settings = {**pretrained_settings(asked, context), "trust_remote_code": weights.trust_remote_code}
    try:
        has_library = importlib.util.find_spec("sentence_transformers") is not None
        if embedding.pooling is None and has_library and is_sentence_transformer(weights):
            return _by_sentence_transformers(weights, settings, device, embedding, name, identity)
        return _by_transformers(weights, settings, device, embedding, name, identity)
    except unreadable() as error:
        raise not_loaded(weights, error) from error


def with_adapter(spec: TaskSpec, context: Context) -> tuple[Any, Any]:
    """(model without a head, tokenizer), the adapter that a stage trained merged in."""
    loaded = load_model(spec, context)
    whole = loaded.model.merge_and_unload() if hasattr(loaded.model, "peft_config") else loaded.model
    return whole.base_model, loaded.tokenizer


def named_source(spec: TaskSpec) -> ModelSource | None:
    """The model of a task that pools; None where its `checkpoint.load` is it. Raises ExecutorError where it names none."""
    source = spec.model.source or embedding_source(embedding_of(spec))
    if source is None and spec.checkpoint.load is None:
        raise no_model("model.source with a type and an identifier")
    return source


def embedding_source(embedding: Embedding) -> ModelSource | None:
    """What `embedding` names: its `source`, or the hub's name or folder that `model` is."""
    return embedding.source or (HuggingFaceSource(embedding.model) if embedding.model else None)


def encoder_spec(spec: TaskSpec) -> TaskSpec:
    """The task without what is said for the model that answers: an embedding model beside it takes none of its settings."""
    return replace(spec, model=Model())


def _by_sentence_transformers(weights: Weights, settings: dict[str, Any], device: str, embedding: Embedding, name: str, identity: str) -> Encoder:
    from sentence_transformers import SentenceTransformer

    trust = bool(settings.pop("trust_remote_code"))
    model = SentenceTransformer(weights.model, device=device, revision=weights.revision, trust_remote_code=trust, model_kwargs=settings)
    model.eval()
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    prompts = prompts_of(embedding, model.prompts)

    def encode(texts: Sequence[str], kind: Kind, normalize: bool) -> Encoded:
        written = [prompts[kind] + text for text in texts]
        vectors = model.encode(written, prompt="", batch_size=embedding.batch_size, normalize_embeddings=normalize, show_progress_bar=False)
        return Encoded(vectors.astype("float32", copy=False), _lengths(model.tokenizer, written, model.max_seq_length))

    dimension = int(model.get_embedding_dimension() or encode([""], "document", False).vectors.shape[1])
    return Encoder(encode, dimension, name, f"{identity} {prompts}", model.tokenizer, "sentence-transformers")


def _by_transformers(weights: Weights, settings: dict[str, Any], device: str, embedding: Embedding, name: str, identity: str) -> Encoder:
    from transformers import AutoModel, AutoTokenizer

    files = pooling_files(weights)
    tokenizer = AutoTokenizer.from_pretrained(weights.model, revision=weights.revision, trust_remote_code=weights.trust_remote_code)
    model = AutoModel.from_pretrained(weights.model, revision=weights.revision, **settings)
    return _plain(model.to(device), tokenizer, files, embedding, name, identity)


def _plain(model: Any, tokenizer: Any, files: PoolingFiles, embedding: Embedding, name: str, identity: str) -> Encoder:
    model.eval()
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    pooling = embedding.pooling or files.pooling
    limits = (files.max_seq_length, getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    longest = min(limit for limit in limits if limit)
    prompts = prompts_of(embedding, files.prompts)
    dimension = int(model.config.get_text_config().hidden_size)

    def encode(texts: Sequence[str], kind: Kind, normalize: bool) -> Encoded:
        import numpy

        written = [prompts[kind] + text for text in texts]
        size = embedding.batch_size
        parts = [_forward(model, tokenizer, written[at : at + size], pooling, longest) for at in range(0, len(written), size)]
        vectors = numpy.concatenate([vectors for vectors, _ in parts]) if parts else numpy.zeros((0, dimension), "float32")
        made = of_length_one(vectors) if normalize or files.normalize else vectors
        return Encoded(made, [count for _, counts in parts for count in counts])

    return Encoder(encode, dimension, name, f"{identity} {pooling} {prompts}", tokenizer)


def of_length_one(vectors: Any) -> Any:
    """float [texts, dimension]"""
    import numpy

    return vectors / numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _forward(model: Any, tokenizer: Any, texts: list[str], pooling: str, longest: int) -> tuple[Any, list[int]]:
    """(float32 [texts, width], tokens of each text)."""
    import torch

    encoded = tokenizer(texts, return_tensors="pt", padding=True, truncation=longest < 1 << 20, max_length=longest)
    encoded.pop("token_type_ids", None)
    encoded = encoded.to(model.device)
    with torch.inference_mode():
        hidden = model(**encoded).last_hidden_state.float()  # [texts, tokens, width]
    mask = encoded["attention_mask"]
    counts = mask.sum(1)
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif pooling == "last":
        pooled = hidden[torch.arange(len(texts), device=hidden.device), (counts - 1).clamp(min=0)]
    else:
        weight = mask[..., None].float()
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return pooled.cpu().numpy(), counts.tolist()


def prompts_of(embedding: Embedding, of_model: dict[str, str]) -> dict[Kind, str]:
    """What goes before a text, by its kind."""
    query, document = embedding.query_prompt, embedding.document_prompt
    return {
        "query": of_model.get("query", "") if query is None else query,
        "document": (of_model.get("document") or of_model.get("passage") or "") if document is None else document,
    }


def _lengths(tokenizer: Any, texts: list[str], longest: int | None) -> list[int]:
    limit = longest if longest and longest < 1 << 20 else None
    encoded = tokenizer(texts, truncation=limit is not None, max_length=limit)["input_ids"]
    return [len(ids) for ids in encoded]


def no_model(where: str) -> ExecutorError:
    """The error of a task that names no model for its vectors."""
    return ExecutorError("NoModel", f"the task names no embedding model; give it {where}")
