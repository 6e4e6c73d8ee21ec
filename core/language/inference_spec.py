"""`spec.inference`, `spec.parallel`, `spec.retrieval`: how prompts are answered."""

from typing import Annotated, Any, Literal

import msgspec

from mloc.core.language.section import AT_INTAKE, Count, Fraction, Names, NonNegativeInt, Section, Settings, also


class Inference(Section, frozen=True):
    """Sampling parameters by the names that vLLM gives them. What is None was not set: the engine's own default holds."""

    system_prompt: str | None = None
    append_system_prompt: str | None = None
    max_tokens: Annotated[Count | None, also("max_new_tokens")] = None
    min_tokens: NonNegativeInt | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    stop: str | Names | None = None
    stop_token_ids: tuple[int, ...] | None = None
    bad_words: Names | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    seed: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    prompt_logprobs: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    flat_logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    truncate_prompt_tokens: int | None = None
    detokenize: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    thinking_token_budget: NonNegativeInt | None = None
    extra_args: Settings | None = None
    structured_outputs: Settings | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Names | None = None
    chat: Literal["auto", "on", "off"] = "auto"
    on_item_error: Literal["record", "fail"] = "record"
    max_item_errors: NonNegativeInt | None = None


class Parallel(Section, frozen=True):
    """Data-parallel inference: the rows are split into contiguous ranges, one shard each."""

    enabled: bool = True
    shards: Annotated[int, msgspec.Meta(ge=1, le=4096)] | Literal["auto"] = "auto"
    max_shards: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    min_items_per_shard: Annotated[Count, AT_INTAKE] = 1


class Chunking(Section, frozen=True):
    """How documents are cut, in characters unless `unit` says tokens."""

    size: Annotated[Count, also("chunk_size")] = 800
    overlap: Annotated[NonNegativeInt, also("chunk_overlap")] = 100
    unit: Literal["characters", "tokens"] = "characters"


class Embedding(Section, frozen=True):
    """The model that turns texts into vectors."""

    model: Annotated[str, also("identifier", "name", "model_name")] = ""
    batch_size: Count = 32
    normalize: bool = True
    device: str | None = None


class Search(Section, frozen=True):
    """How passages are found."""

    top_k: Annotated[Count, also("k")] = 4
    score_threshold: float | None = None
    rerank: str | None = None


class Retrieval(Section, frozen=True):
    """Documents, how they are cut and embedded, where vectors are kept, and what comes back."""

    documents: tuple[Any, ...] | dict[str, Any] | str | None = None
    chunking: Chunking = Chunking()
    embedding: Embedding = Embedding()
    store: Annotated[Literal["chromadb", "qdrant", "faiss"], also("vector_db")] = "faiss"
    collection: str = "documents"
    path: str | None = None
    qdrant: Settings = {}
    search: Search = Search()
    returns: Annotated[Literal["answer", "passages"], also("mode")] = "answer"
