"""`spec.data`: the rows that a task works on, in one of six forms told apart by `type`."""

from typing import Annotated, Any, Literal

import msgspec

from mloc.core.language.section import Count, Names, NonNegativeInt, Section, about, also, planned

ROW = {
    "type": ["string", "object", "array"], "minLength": 1, "minProperties": 1, "minItems": 1, "items": {"type": "object", "required": ["role"]},
}  # fmt: skip
ROWS = msgspec.Meta(extra_json_schema={"items": ROW})


class ListData(Section, frozen=True, tag_field="type", tag="list"):
    """Rows written in the file: texts, or mappings with a prompt and further columns. `data.prompts` is the same."""

    items: Annotated[tuple[Any, ...], also("prompts"), ROWS, about("texts, chat turns, or mappings such as `{prompt, response, metadata}`")] = ()


class DatasetData(Section, frozen=True, tag_field="type", tag="dataset"):
    """A hub dataset, or a jsonl, csv or parquet file under a path or URL."""

    identifier: Annotated[str | None, also("dataset_name", "dataset"), about("the hub's name of it, or the path of a file or folder")] = None
    url: Annotated[str | None, about("`http://…`, `https://…` or `file://…`")] = None
    path: Annotated[str | None, about("a file on the worker's disk")] = None
    name: Annotated[str | None, also("config_name"), about("configuration of a hub dataset")] = None
    revision: Annotated[str | None, about("branch, tag or commit")] = None
    split: Annotated[str, about("with slices, joined by +: `train[:1%]+test[10:20]`")] = "train"
    column: Annotated[str | None, about("the prompt's, when there is no prompt_column")] = None
    prompt_column: Annotated[str | None, about("holds the prompt")] = None
    response_column: Annotated[str | None, about("holds the answer")] = None
    chosen_column: Annotated[str | None, about("holds the better answer")] = None
    rejected_column: Annotated[str | None, about("holds the worse answer")] = None
    text_field: Annotated[str | None, also("text_column"), about("holds a whole text")] = None
    separator: Annotated[str | None, about("between the columns of a csv file")] = None
    metadata_columns: Annotated[dict[str, str], about("name in the result → column")] = {}
    fields: Annotated[dict[str, str] | Names | None, about("columns to keep, or new name → column")] = None
    required_fields: Annotated[Names, about("a row without one of these is an error in its place")] = ()
    shuffle: Annotated[bool, about("before it is cut")] = False
    seed: Annotated[int | None, about("of the shuffle; else the task's")] = None
    buffer_size: Annotated[Count | None, about("rows to shuffle at a time when streaming; 1000 when unset")] = None
    max_samples: Annotated[NonNegativeInt | None, about("take so many rows")] = None
    streaming: Annotated[bool, about("read no more than is needed")] = False
    trust_remote_code: Annotated[bool, planned("run code that comes with it")] = False
    headers: Annotated[dict[str, str], about("sent with the request")] = {}
    notes: Annotated[str | None, about("for people")] = None


class JsonlData(Section, frozen=True, tag_field="type", tag="jsonl"):
    """A file of one JSON object a line. Of `path` and `url` the first that is there is used.

    `data.jsonl` and `data.jsonl_path` are the same."""

    path: Annotated[str | None, about("a file on the worker's disk, relative to the task file")] = None
    url: Annotated[str | None, about("`http://…`, `https://…` or `file://…`")] = None
    prompt_field: Annotated[str, about("holds the prompt")] = "prompt"
    response_field: Annotated[str, about("holds the answer")] = "response"
    chosen_field: Annotated[str, about("holds the better answer")] = "chosen"
    rejected_field: Annotated[str, about("holds the worse answer")] = "rejected"
    query_field: Annotated[str, about("holds the query of a rollout")] = "query"
    text_field: Annotated[str, about("holds a whole text")] = "text"
    messages_field: Annotated[str, about("holds chat turns")] = "messages"
    shuffle: Annotated[bool, about("before it is cut")] = False
    seed: Annotated[int | None, about("of the shuffle; else the task's")] = None
    max_samples: Annotated[NonNegativeInt | None, about("take so many rows")] = None
    headers: Annotated[dict[str, str], about("sent with the request")] = {}


PAIRS = msgspec.Meta(extra_json_schema={"items": {"required": ["prompt", "chosen", "rejected"]}})


class PreferencesData(Section, frozen=True, tag_field="type", tag="preferences"):
    """Pairs written in the file: `{prompt, chosen, rejected}`."""

    preferences: Annotated[tuple[dict[str, Any], ...], also("items"), PAIRS, about("each with prompt, chosen and rejected")] = ()


_TURN = {"type": "object", "required": ["role"]}
TURNS = msgspec.Meta(extra_json_schema={"items": {**_TURN, "type": ["object", "array"], "items": _TURN}})


class MessagesData(Section, frozen=True, tag_field="type", tag="messages"):
    """Chat turns: one conversation (a list of turns) or several (a list of lists). A turn is `{role, content}`."""

    messages: Annotated[tuple[Any, ...], also("items"), TURNS, about("turns, or lists of turns")] = ()


class TemplateColumn(Section, frozen=True):
    """One line of a graph template: the value at `path` in the result of stage `node`, or of the expression `expr`."""

    label: Annotated[str, about("its heading")] = ""
    node: Annotated[str | None, also("stage"), about("the stage")] = None
    path: Annotated[str | None, about("in the stage's result: `items[*].output`")] = None
    expr: Annotated[str | None, about("in place of node and path: `len(a.items)`")] = None
    default: Annotated[Any, about("when there is no such value")] = None


class TemplateOptions(Section, frozen=True):
    """The words around the columns."""

    role: Annotated[str | None, about("who the model is to be")] = None
    intro: Annotated[str | None, about("before the columns")] = None
    closing: Annotated[str | None, about("after the columns")] = None


class Template(Section, frozen=True):
    """How columns become a prompt: a named layout (`lines`, `table`), or `text` with `{label}` and `{columns}` in it."""

    name: Annotated[str | None, about("`lines` or `table`")] = None
    text: Annotated[str | None, about("a layout of your own")] = None
    columns: Annotated[tuple[TemplateColumn, ...], about("what is put in")] = ()
    options: Annotated[TemplateOptions, about("the words around")] = TemplateOptions()


class GraphTemplateData(Section, frozen=True, tag_field="type", tag="graph_template"):
    """A prompt made from the results of earlier stages."""

    template: Annotated[Template, about("how the prompt is made")] = Template()


Data = ListData | DatasetData | JsonlData | PreferencesData | MessagesData | GraphTemplateData


class ExportField(Section, frozen=True):
    """Where a field of an exported row comes from."""

    source: Annotated[
        Literal["metadata", "output", "prompt", "literal"], about("what it is taken from")
    ] = msgspec.field(name="from", default="output")
    key: Annotated[str | None, about("which metadata")] = None
    value: Annotated[Any, about("the literal")] = None


class JsonlExport(Section, frozen=True):
    """Write an inference result as a training set: one JSON object a line."""

    path: Annotated[str, about("below the task's artifacts")] = "export.jsonl"
    fields: Annotated[dict[str, ExportField], about("name in the row → where it comes from")] = {}
    required_fields: Annotated[Names, about("must be in each row")] = ()


class Postprocess(Section, frozen=True):
    """What is made of a result after the task's own work."""

    jsonl_export: Annotated[JsonlExport | None, about("an inference result becomes a training set")] = None
