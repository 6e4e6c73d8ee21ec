"""`spec.inference`, `spec.parallel`, `spec.retrieval`: how prompts are answered."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import inspect

from mloc.core.language.model_spec import ModelSource
from mloc.core.language.section import AT_INTAKE, Count, Fraction, Names, NonNegativeInt, Section, Settings, about, also, for_vllm, instead_of


class Inference(Section, frozen=True):
    """Sampling parameters by the names that vLLM gives them. What is not set is as the model's own generation settings have it.

    Where it says vLLM, the transformers engine fails the task."""

    system_prompt: Annotated[str | None, about("goes before every prompt")] = None
    append_system_prompt: Annotated[str | None, about("goes after the system prompt")] = None
    max_tokens: Annotated[Count | None, also("max_new_tokens", "max_completion_tokens"), about("longest answer; 256 when unset")] = None
    min_tokens: Annotated[NonNegativeInt | None, also("min_new_tokens"), about("shortest answer")] = None
    do_sample: Annotated[bool | None, about("draw tokens at random; else as the temperature says")] = None
    temperature: Annotated[Annotated[float, msgspec.Meta(ge=0)] | None, about("0: always the likeliest token")] = None
    top_p: Annotated[Annotated[float, msgspec.Meta(gt=0, le=1)] | None, about("draw from the likeliest that make up so much")] = None
    top_k: Annotated[Annotated[int, msgspec.Meta(ge=-1)] | None, about("draw from so many; -1 or 0: all")] = None
    min_p: Annotated[Fraction | None, about("leave out what is less likely than so much of the likeliest")] = None
    repetition_penalty: Annotated[Annotated[float, msgspec.Meta(gt=0)] | None, about("above 1 discourages what was said")] = None
    presence_penalty: Annotated[Annotated[float, msgspec.Meta(ge=-2, le=2)] | None, about("for a token that was used")] = None
    frequency_penalty: Annotated[Annotated[float, msgspec.Meta(ge=-2, le=2)] | None, about("for each time it was used")] = None
    stop: Annotated[str | Names | None, also("stop_strings", "stop_sequences"), about("texts that end an answer")] = None
    stop_token_ids: Annotated[tuple[int, ...] | None, about("tokens that end an answer")] = None
    bad_words: Annotated[Names | None, about("never written")] = None
    ignore_eos: Annotated[bool | None, about("write on to max_tokens")] = None
    include_stop_str_in_output: Annotated[bool | None, about("keep the text that ended it")] = None
    seed: Annotated[int | None, about("the same seed gives the same answers")] = None
    n: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1024)] | None, also("num_return_sequences"), about("answers for each prompt; above 1 needs sampling")
    ] = None
    logprobs: Annotated[Annotated[int, msgspec.Meta(ge=-1)] | None, about("of so many tokens at each place")] = None
    prompt_logprobs: Annotated[Annotated[int, msgspec.Meta(ge=-1)] | None, for_vllm("the same for the prompt")] = None
    prompt_logprob_start: Annotated[NonNegativeInt | None, for_vllm("from this token of the prompt on")] = None
    prompt_logprob_token_ids: Annotated[tuple[int, ...] | None, for_vllm("of these tokens of the vocabulary")] = None
    logprob_token_ids: Annotated[tuple[int, ...] | None, for_vllm("the same for the answer")] = None
    flat_logprobs: Annotated[bool | None, for_vllm("in one flat list")] = None
    logit_bias: Annotated[dict[str, float] | None, about("token id → what is added")] = None
    allowed_token_ids: Annotated[tuple[int, ...] | None, about("nothing else is written")] = None
    truncate_prompt_tokens: Annotated[int | None, about("keep so many of a long prompt")] = None
    detokenize: Annotated[bool | None, about("false: ids only (vLLM)")] = None
    skip_special_tokens: Annotated[bool | None, about("leave them out of the text")] = None
    spaces_between_special_tokens: Annotated[bool | None, for_vllm("put spaces between them")] = None
    thinking_token_budget: Annotated[NonNegativeInt | None, for_vllm("tokens for reasoning")] = None
    repetition_detection: Annotated[Settings | None, for_vllm("end an answer that repeats itself")] = None
    watermarking: Annotated[bool | None, for_vllm("mark the text as generated")] = None
    skip_reading_prefix_cache: Annotated[bool | None, for_vllm("compute the prompt anew")] = None
    stream_interval: Annotated[Count | None, for_vllm("tokens between two reports")] = None
    output_kind: Annotated[Literal["cumulative", "delta", "final_only"] | None, for_vllm("how reports look; results are whole anyway")] = None
    output_text_buffer_length: Annotated[NonNegativeInt | None, for_vllm("characters held back")] = None
    skip_clone: Annotated[bool | None, for_vllm("for speed")] = None
    routed_experts_prompt_start: Annotated[NonNegativeInt | None, for_vllm("from this token of the prompt on")] = None
    trace_decode_token_ids: Annotated[tuple[int, ...] | None, for_vllm("replay these tokens")] = None
    extra_args: Annotated[Settings | None, for_vllm("for plug-ins of the engine")] = None
    structured_outputs: Annotated[Settings | None, for_vllm("the engine's own form of the three below")] = None
    json_schema: Annotated[
        dict[str, Any] | str | None, also("guided_json"), instead_of("response_format"), about("the answer follows this schema")
    ] = None
    regex: Annotated[str | None, also("guided_regex"), about("the answer matches")] = None
    choice: Annotated[Names | None, also("guided_choice"), about("the answer is one of these")] = None
    chat: Annotated[Literal["auto", "on", "off"], about("auto: use the model's chat template when it has one")] = "auto"
    engine: Annotated[
        Literal["auto", "vllm", "transformers"], also("backend"),
        about("auto: vLLM on GPUs (but for embed, score and rerank), and for tasks with model.vllm or a setting that only it follows; transformers "
              "else, and where vLLM is missing"),
    ] = "auto"
    on_item_error: Annotated[Literal["record", "fail"], about("record: a bad row is noted and the others go on")] = "record"
    max_item_errors: Annotated[NonNegativeInt | None, about("fail when there are more")] = None


def names_for_vllm() -> tuple[str, ...]:
    """The fields of Inference that only vLLM can follow."""
    kind = inspect.type_info(Inference)
    assert isinstance(kind, inspect.StructType)
    return tuple(field.name for field in kind.fields if _extra(field.type).get("engine") == "vllm")


def _extra(kind: inspect.Type) -> dict[str, Any]:
    return (kind.extra or {}) | _extra(kind.type) if isinstance(kind, inspect.Metadata) else {}


class Parallel(Section, frozen=True):
    """Rows shared out to workers: each shard takes a contiguous range. What cannot be split by rows runs as one, with a warning."""

    enabled: Annotated[bool, about("false: as one")] = True
    shards: Annotated[Annotated[int, msgspec.Meta(ge=1, le=4096)] | Literal["auto"], about("how many; auto: as workers are free")] = "auto"
    max_shards: Annotated[Annotated[int, msgspec.Meta(ge=1, le=4096)] | None, about("with auto")] = None
    min_items_per_shard: Annotated[Count, AT_INTAKE, about("fewer rows are not split")] = 1


class Chunking(Section, frozen=True):
    """How documents are cut, in characters unless `unit` says tokens."""

    size: Annotated[Count, also("chunk_size"), about("of one piece")] = 800
    overlap: Annotated[NonNegativeInt, also("chunk_overlap"), about("shared with the next")] = 100
    unit: Annotated[Literal["characters", "tokens"], about("of size and overlap")] = "characters"


class Embedding(Section, frozen=True):
    """The model that turns texts into vectors."""

    model: Annotated[str, also("identifier", "name", "model_name"), about("hub name or folder")] = ""
    source: Annotated[ModelSource | None, about("in place of `model`: where the weights come from, as `model.source` says it")] = None
    batch_size: Annotated[Count, about("texts at a time")] = 32
    normalize: Annotated[bool, about("to length 1")] = True
    pooling: Annotated[Literal["mean", "cls", "last"] | None, about("tokens into one vector; unset: as the model says, else mean")] = None
    query_prompt: Annotated[str | None, about("goes before each question; unset: as the model says")] = None
    document_prompt: Annotated[str | None, about("goes before each passage, and before each text of `embed`; unset: as the model says")] = None
    device: Annotated[str | None, about("cpu, cuda, …")] = None


PASSAGES = 4
"""What a question finds where `top_k` is unset."""


class Search(Section, frozen=True):
    """How passages are found."""

    top_k: Annotated[Count | None, also("k"), about("passages for each question; 4 when unset, of `rerank` all")] = None
    score_threshold: Annotated[float | None, about("leave out what scores less; 1 is the same direction, 0 nothing in common")] = None
    type: Annotated[
        Literal["similarity", "mmr"], also("search_type"), about("mmr: passages that also differ from each other (maximal marginal relevance)")
    ] = "similarity"
    fetch_k: Annotated[Count | None, about("with mmr or rerank: candidates to choose from; 5 times top_k when unset")] = None
    lambda_mult: Annotated[Fraction, about("with mmr: 1 looks only at the question, 0 only at variety")] = 0.5
    filter: Annotated[Settings, also("where"), about("only passages whose metadata have these values; of a list, any of its values")] = {}
    rerank: Annotated[str | None, about("a model that sorts them again")] = None


class Retrieval(Section, frozen=True):
    """Documents, how they are cut and embedded, where vectors are kept, and what comes back."""

    documents: Annotated[
        tuple[Any, ...] | dict[str, Any] | str | None,
        about("texts or `{text, source, metadata}`, a file or folder (txt, md, html, pdf, jsonl, …), an earlier stage's items, or as `data`"),
    ] = None
    index: Annotated[str | None, about("the folder of an index that an earlier task made: `${stage.result.index.path}`")] = None
    chunking: Annotated[Chunking, about("how they are cut")] = Chunking()
    embedding: Annotated[Embedding, about("texts into vectors; a text is its model")] = Embedding()
    store: Annotated[Literal["chromadb", "qdrant", "faiss"], also("vector_db"), about("where vectors are kept")] = "faiss"
    collection: Annotated[str, about("its name there")] = "documents"
    path: Annotated[str | None, about("its folder, below the results folder or an allowed root; unset: in memory")] = None
    qdrant: Annotated[Settings, about("arguments of Qdrant's client")] = {}
    search: Annotated[Search, about("how passages are found")] = Search()
    returns: Annotated[Literal["answer", "passages"], also("mode"), about("an answer, or only the passages")] = "answer"
    prompt: Annotated[str | None, about("what the model is asked, with `{context}` and `{question}` in it")] = None
