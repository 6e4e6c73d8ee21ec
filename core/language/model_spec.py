"""`spec.model`: where the weights come from, the engines' own arguments, and the adapters on top."""

from typing import Annotated, Literal

import msgspec

from mloc.core.language.section import Count, Fraction, Names, Section, Settings, also, settings_of


class HuggingFaceSource(Section, frozen=True, tag_field="type", tag="huggingface"):
    """A model hub repository, or a folder under a path that the hub's client accepts."""

    identifier: Annotated[str, also("name", "model", "model_name", "repo_id")] = ""
    revision: str | None = None
    trust_remote_code: bool = False


class LocalSource(Section, frozen=True, tag_field="type", tag="local"):
    """A folder with weights and tokenizer on a disk that the worker sees."""

    identifier: Annotated[str, also("path")] = ""
    revision: str | None = None
    trust_remote_code: bool = False


class HttpSource(Section, frozen=True, tag_field="type", tag="http"):
    """An archive with weights and tokenizer behind a URL."""

    identifier: Annotated[str, also("url")] = ""
    headers: dict[str, str] = {}
    archive_format: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False


class StageSource(Section, frozen=True, tag_field="type", tag="stage"):
    """Weights that an earlier stage made. Of `path`, `url` and `task_id` the first that is there is used.

    A file may write a stage's name as `identifier`; expansion fills `path` and `url` with references to that stage's result."""

    identifier: str = ""
    path: str | None = None
    url: str | None = None
    task_id: Annotated[str | None, also("task_id")] = msgspec.field(name="taskId", default=None)
    headers: dict[str, str] = {}
    archive_format: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False


class ScratchSource(Section, frozen=True, tag_field="type", tag="scratch"):
    """A model initialised from sizes, with a tokenizer trained on `tokenizer_text`: a file's path, or the texts themselves.

    Without `tokenizer_text` the tokenizer is trained on the task's own data."""

    architecture: str = "llama"
    hidden_size: Count = 128
    intermediate_size: Count | None = None
    num_hidden_layers: Annotated[Count, also("num_layers")] = 2
    num_attention_heads: Annotated[Count, also("num_heads")] = 4
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    vocab_size: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)] = 512
    max_position_embeddings: Annotated[Count, also("max_length")] = 512
    tie_word_embeddings: bool = True
    tokenizer_text: str | Names | None = None
    chat_template: str | None = None
    config: Settings = {}
    seed: int = 0
    identifier: str = ""
    revision: str | None = None
    trust_remote_code: bool = False


ModelSource = HuggingFaceSource | LocalSource | HttpSource | StageSource | ScratchSource


class Adapter(Section, frozen=True):
    """The low-rank adapter that a fine-tuning task trains."""

    type: Literal["lora", "qlora"] = "lora"
    r: Annotated[Count, also("rank", "lora_r")] = 8
    lora_alpha: Annotated[float, also("alpha")] = 16
    lora_dropout: Annotated[Fraction, also("dropout")] = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    target_modules: str | Names | None = None
    modules_to_save: Names | None = None
    use_rslora: bool = False
    task_type: str = "CAUSAL_LM"


class ServedAdapter(Section, frozen=True):
    """A trained adapter that an inference task loads. Of `path`, `url` and `task_id` the first that is there is used."""

    name: str = ""
    type: Literal["lora", "qlora"] = "lora"
    path: str | None = None
    url: str | None = None
    task_id: Annotated[str | None, also("task_id")] = msgspec.field(name="taskId", default=None)
    apply: Literal["runtime", "merge"] = "runtime"
    headers: dict[str, str] = {}
    archive_format: str | None = None


class Model(Section, frozen=True):
    """What to load and how. `vllm`, `transformers` and `config` are handed to the libraries by name."""

    source: ModelSource | None = None
    vllm: Annotated[Settings, settings_of("vllm")] = {}
    transformers: Annotated[Settings, settings_of("transformers")] = {}
    config: Annotated[Settings, settings_of("config")] = {}
    adapter: Adapter | None = None
    adapters: tuple[ServedAdapter, ...] = ()
