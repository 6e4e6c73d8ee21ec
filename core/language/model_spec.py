"""`spec.model`: where the weights come from, the engines' own arguments, and the adapters on top."""

from typing import Annotated, Literal

import msgspec

from mloc.core.language.section import Count, Fraction, Names, Section, Settings, about, also, settings_of


class HuggingFaceSource(Section, frozen=True, tag_field="type", tag="huggingface"):
    """A model hub repository, or a folder under a path that the hub's client accepts."""

    identifier: Annotated[str, also("name", "model", "model_name", "repo_id"), about("such as `Qwen/Qwen2.5-0.5B-Instruct`")] = ""
    revision: Annotated[str | None, about("branch, tag or commit")] = None
    trust_remote_code: Annotated[bool, about("run code that comes with the model")] = False


class LocalSource(Section, frozen=True, tag_field="type", tag="local"):
    """A folder with weights and tokenizer on a disk that the worker sees."""

    identifier: Annotated[str, also("path"), about("the folder")] = ""
    revision: Annotated[str | None, about("for the record")] = None
    trust_remote_code: Annotated[bool, about("run code that comes with the model")] = False


class HttpSource(Section, frozen=True, tag_field="type", tag="http"):
    """An archive (tar, also .gz, .bz2, .xz, .zst; zip) or a folder with weights and tokenizer behind a URL."""

    identifier: Annotated[str, also("url"), about("the URL of an archive, or with a slash at its end of a folder with a model's files")] = ""
    headers: Annotated[dict[str, str], about("sent with the request")] = {}
    archive_format: Annotated[str | None, about("for the record: archives are told apart by their content")] = None
    revision: Annotated[str | None, about("for the record")] = None
    trust_remote_code: Annotated[bool, about("run code that comes with the model")] = False


class StageSource(Section, frozen=True, tag_field="type", tag="stage"):
    """Weights that an earlier stage made. Of `path`, `url` and `taskId` the first that is there is used.

    With a stage's name as `identifier` they are filled with references to that stage's result."""

    identifier: Annotated[str, about("the stage's name")] = ""
    path: Annotated[str | None, about("a folder")] = None
    url: Annotated[str | None, about("an archive of it")] = None
    task_id: Annotated[str | None, also("task_id"), about("the task that made them")] = msgspec.field(name="taskId", default=None)
    headers: Annotated[dict[str, str], about("sent with the request")] = {}
    archive_format: Annotated[str | None, about("for the record: archives are told apart by their content")] = None
    revision: Annotated[str | None, about("for the record")] = None
    trust_remote_code: Annotated[bool, about("run code that comes with the model")] = False


class ScratchSource(Section, frozen=True, tag_field="type", tag="scratch"):
    """A model initialised from sizes, with a tokenizer trained on `tokenizer_text`: a file's path, or the texts themselves.

    Without `tokenizer_text` the tokenizer is trained on the task's own data."""

    architecture: Annotated[str, about("a model type of transformers")] = "llama"
    hidden_size: Annotated[Count, about("width")] = 128
    intermediate_size: Annotated[Count | None, about("width of the feed-forward layers")] = None
    num_hidden_layers: Annotated[Count, also("num_layers"), about("depth")] = 2
    num_attention_heads: Annotated[Count, also("num_heads"), about("must divide hidden_size unless head_dim is set")] = 4
    num_key_value_heads: Annotated[Count | None, about("must divide num_attention_heads")] = None
    head_dim: Annotated[Count | None, about("width of one head")] = None
    vocab_size: Annotated[int, msgspec.Meta(ge=16, le=1_000_000), about("of the tokenizer at most")] = 512
    max_position_embeddings: Annotated[Count, also("max_length"), about("longest sequence, in tokens")] = 512
    tie_word_embeddings: Annotated[bool, about("input and output share one table")] = True
    tokenizer_text: Annotated[str | Names | None, about("texts, or a file's path, to train the tokenizer on")] = None
    chat_template: Annotated[str | None, about("Jinja, as tokenizers take it")] = None
    config: Annotated[Settings, about("more of the architecture's own config")] = {}
    seed: Annotated[int, about("of the first weights")] = 0
    identifier: Annotated[str, about("a name for it in results")] = ""
    revision: Annotated[str | None, about("for the record")] = None
    trust_remote_code: Annotated[bool, about("has no effect here")] = False


ModelSource = HuggingFaceSource | LocalSource | HttpSource | StageSource | ScratchSource


class Adapter(Section, frozen=True):
    """The low-rank adapter that a fine-tuning task trains."""

    type: Annotated[Literal["lora", "qlora"], about("`qlora`: over a base in 4 bits")] = "lora"
    r: Annotated[Count, also("rank", "lora_r"), about("rank")] = 8
    lora_alpha: Annotated[float, also("alpha"), about("scale")] = 16
    lora_dropout: Annotated[Fraction, also("dropout"), about("while training")] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], about("which biases are trained")] = "none"
    target_modules: Annotated[str | Names | None, about("names, a pattern, or all-linear")] = None
    modules_to_save: Annotated[Names | None, about("layers trained in full beside it")] = None
    use_rslora: Annotated[bool, about("scale by the root of the rank")] = False
    task_type: Annotated[str, about("peft's name of the task")] = "CAUSAL_LM"


class ServedAdapter(Section, frozen=True):
    """A trained adapter that an inference task loads. Of `path`, `url` and `taskId` the first that is there is used."""

    name: Annotated[str, about("to tell them apart")] = ""
    type: Annotated[Literal["lora", "qlora"], about("as it was trained")] = "lora"
    path: Annotated[str | None, about("its folder")] = None
    url: Annotated[str | None, about("its archive")] = None
    task_id: Annotated[str | None, also("task_id"), about("the task that trained it")] = msgspec.field(name="taskId", default=None)
    apply: Annotated[Literal["runtime", "merge"], about("runtime: on top of the weights; merge: into them")] = "runtime"
    headers: Annotated[dict[str, str], about("sent with the request")] = {}
    archive_format: Annotated[str | None, about("for the record: archives are told apart by their content")] = None


SOMEWHERE = msgspec.Meta(extra_json_schema={"items": {"anyOf": [{"required": [name]} for name in ("path", "url", "taskId", "task_id")]}})


class Model(Section, frozen=True):
    """What to load and how. `vllm`, `transformers` and `config` are handed to the libraries by name."""

    source: Annotated[ModelSource | None, about("where the weights come from")] = None
    vllm: Annotated[Settings, settings_of("vllm"), about("arguments of vLLM's engine, by its names; they ask for that engine")] = {}
    transformers: Annotated[Settings, settings_of("transformers"), about("arguments of from_pretrained, by its names")] = {}
    config: Annotated[Settings, settings_of("config"), about("precision and memory, for every engine")] = {}
    adapter: Annotated[Adapter | None, about("what a fine-tuning task trains")] = None
    adapters: Annotated[tuple[ServedAdapter, ...], SOMEWHERE, about("what an inference task loads on top")] = ()
