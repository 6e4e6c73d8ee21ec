"""`spec.data`: the rows that a task works on, in one of six forms told apart by `type`."""

from typing import Annotated, Any, Literal

import msgspec

from mloc.core.language.section import Count, Names, NonNegativeInt, Section, also


class ListData(Section, frozen=True, tag_field="type", tag="list"):
    """Rows written in the file: texts, or mappings with a prompt and further columns. `data.prompts` is the same."""

    items: Annotated[tuple[Any, ...], also("prompts")] = ()


class DatasetData(Section, frozen=True, tag_field="type", tag="dataset"):
    """A hub dataset, or a jsonl, csv or parquet file under a path or URL."""

    identifier: Annotated[str | None, also("dataset_name", "dataset")] = None
    url: str | None = None
    path: str | None = None
    name: Annotated[str | None, also("config_name")] = None
    revision: str | None = None
    split: str = "train"
    column: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    chosen_column: str | None = None
    rejected_column: str | None = None
    text_field: Annotated[str | None, also("text_column")] = None
    separator: str | None = None
    metadata_columns: dict[str, str] = {}
    fields: dict[str, str] | Names | None = None
    required_fields: Names = ()
    shuffle: bool = False
    seed: int | None = None
    buffer_size: Count | None = None
    max_samples: NonNegativeInt | None = None
    streaming: bool = False
    trust_remote_code: bool = False
    headers: dict[str, str] = {}
    notes: str | None = None


class JsonlData(Section, frozen=True, tag_field="type", tag="jsonl"):
    """A file of one JSON object a line. Of `path` and `url` the first that is there is used.

    `data.jsonl` and `data.jsonl_path` are the same."""

    path: str | None = None
    url: str | None = None
    prompt_field: str = "prompt"
    response_field: str = "response"
    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    query_field: str = "query"
    text_field: str = "text"
    messages_field: str = "messages"
    shuffle: bool = False
    seed: int | None = None
    max_samples: NonNegativeInt | None = None
    headers: dict[str, str] = {}


class PreferencesData(Section, frozen=True, tag_field="type", tag="preferences"):
    """Pairs written in the file: `{prompt, chosen, rejected}`."""

    preferences: Annotated[tuple[dict[str, Any], ...], also("items")] = ()


class MessagesData(Section, frozen=True, tag_field="type", tag="messages"):
    """Chat turns: one conversation (a list of turns) or several (a list of lists). A turn is `{role, content}`."""

    messages: Annotated[tuple[Any, ...], also("items")] = ()


class TemplateColumn(Section, frozen=True):
    """One line of a graph template: the value at `path` in the result of stage `node`, or of the expression `expr`."""

    label: str = ""
    node: Annotated[str | None, also("stage")] = None
    path: str | None = None
    expr: str | None = None
    default: Any = None


class TemplateOptions(Section, frozen=True):
    """The words around the columns."""

    role: str | None = None
    intro: str | None = None
    closing: str | None = None


class Template(Section, frozen=True):
    """How columns become a prompt: a named layout (`lines`, `table`), or `text` with `{label}` and `{columns}` in it."""

    name: str | None = None
    text: str | None = None
    columns: tuple[TemplateColumn, ...] = ()
    options: TemplateOptions = TemplateOptions()


class GraphTemplateData(Section, frozen=True, tag_field="type", tag="graph_template"):
    """A prompt made from the results of earlier stages."""

    template: Template = Template()


Data = ListData | DatasetData | JsonlData | PreferencesData | MessagesData | GraphTemplateData


class ExportField(Section, frozen=True):
    """Where a field of an exported row comes from."""

    source: Literal["metadata", "output", "prompt", "literal"] = msgspec.field(name="from", default="output")
    key: str | None = None
    value: Any = None


class JsonlExport(Section, frozen=True):
    """Write an inference result as a training set: one JSON object a line."""

    path: str = "export.jsonl"
    fields: dict[str, ExportField] = {}
    required_fields: Names = ()


class Postprocess(Section, frozen=True):
    """What is made of a result after the task's own work."""

    jsonl_export: JsonlExport | None = None
