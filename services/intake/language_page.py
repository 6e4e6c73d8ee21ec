"""Writes docs/task-language.md and docs/task.schema.json from the Structs of the language: `python -m mloc.services.intake.language_page`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from msgspec import inspect

from mloc.core.language.accepted import accepted
from mloc.core.language.json_schema import schema_text
from mloc.core.language.passthrough_names import SECTIONS, Kind
from mloc.core.language.schema_kinds import about_struct
from mloc.core.language.shorthands import MOVED, MOVED_HYPERPARAMETERS, MOVED_IN_RETRIEVAL
from mloc.core.language.spec import Document, Metadata, Stage, TaskSpec
from mloc.core.language.struct_rules import FieldRules, names_of, rules_of, type_of
from mloc.services.intake.language_examples import EXAMPLES, INTRO, RULES

_HEAD = ["| key | takes | default | also written | what |", "| --- | --- | --- | --- | --- |"]
_QUANTITIES = {"cores": "cores: `2`, `0.5`, `500m`", "bytes": "a size: `32Gi`, `32GB`, bytes"}
_KINDS: dict[Kind, str] = {"int": "whole numbers", "float": "numbers", "bool": "true or false", "text": "texts", "any": "any value"}
_SECTION_PLACES = {
    "training": ("`spec.training`, `spec.hyperparameters`", "Names of TRL's configs and transformers' TrainingArguments, and a few of MLOC's own."),
    "generation": ("`spec.generation`", "Names of transformers' GenerationConfig: how `ppo`, `grpo` and `rloo` sample their rollouts."),
    "vllm": ("`spec.model.vllm`", "Names of vLLM's engine arguments."),
    "transformers": ("`spec.model.transformers`", "Names that transformers' `from_pretrained` takes."),
    "config": ("`spec.model.config`", "What holds for every engine."),
    "agent": ("`spec.agent`", "Settings of an agent. They may stand in a YAML file on the worker too, which `config_name` names."),
}  # fmt: skip


def language_page() -> str:
    """docs/task-language.md: examples first, then a table a section."""
    lines = [INTRO]
    for title, text in EXAMPLES.items():
        lines += [f"### {title}\n", f"```yaml\n{text}```\n"]
    lines += [RULES, "## A document\n", *_table(Document)]
    lines += ["\n## A pipeline: `spec.stages[]` and `spec.graph.nodes[]`\n", about_struct(Stage), "", *_table(Stage)]
    lines += ["\n## A task: `spec`\n", about_struct(TaskSpec), "", *_table(TaskSpec)]
    for struct, heading in _headings().items():
        lines += [f"\n### {heading}\n", about_struct(struct), "", *_table(struct)]
    lines += _pass_through()
    lines += _shorthands()
    return "\n".join(lines) + "\n"


def main() -> int:
    docs = Path(__file__).resolve().parents[2] / "docs"
    docs.mkdir(exist_ok=True)
    for name, text in (("task-language.md", language_page()), ("task.schema.json", schema_text())):
        (docs / name).write_text(text)
        print(f"wrote {docs / name}")
    return 0


@cache
def _headings() -> dict[type, str]:
    """The heading of each Struct that has one of its own."""
    headings: dict[type, str] = {Metadata: "`metadata`"}
    for path, one in _sections(type_of(TaskSpec), "spec", set()):
        headings[one.cls] = f"`{path}`" + (f" with `{one.tag_field}: {one.tag}`" if one.tag else "")
    return headings


def _table(struct: type) -> Iterator[str]:
    rules = rules_of(struct)
    yield from _HEAD
    for name in rules.own_names:
        field = rules.by_name[name]
        others = ", ".join(f"`{other}`" for other in names_of(rules, field) if other != name)
        cells = (f"`{name}`", _takes(field), _default(field), others, field.about)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _takes(field: FieldRules) -> str:
    if field.settings:
        return f"[settings](#{_anchor(_SECTION_PLACES[field.settings][0])})"
    if field.quantity:
        return _QUANTITIES[field.quantity]
    structs = _structs_in(field.type)
    if not structs:
        return accepted(field.type)
    if structs[0].tag:
        return "a mapping whose `type` is " + ", ".join(f"[`{one.tag}`](#{_anchor(_headings()[one.cls])})" for one in structs)
    place = f"(#{_anchor(_headings()[structs[0].cls])})"
    return f"a list of [mappings]{place}" if isinstance(field.type, inspect.VarTupleType) else f"a [mapping]{place}"


def _default(field: FieldRules) -> str:
    match field.default:
        case None | "":
            return "**required**" if field.required else ""
        case bool():
            return f"`{str(field.default).lower()}`"
        case _:
            return f"`{field.default}`"


def _sections(kind: inspect.Type, path: str, seen: set[type]) -> Iterator[tuple[str, inspect.StructType]]:
    """Each Struct below a kind once, with the first path at which it stands, from the outside in."""
    for struct in _structs_in(kind):
        rules = rules_of(struct.cls)
        for field in (rules.by_name[name] for name in rules.own_names):
            inner = [one for one in _structs_in(field.type) if one.cls not in seen]
            seen.update(one.cls for one in inner)
            many = "[]" if isinstance(field.type, inspect.VarTupleType) else ".NAME" if isinstance(field.type, inspect.DictType) else ""
            for one in inner:
                yield f"{path}.{field.name}{many}", one
                yield from _sections(one, f"{path}.{field.name}{many}", seen)


def _structs_in(kind: inspect.Type) -> list[inspect.StructType]:
    match kind:
        case inspect.Metadata():
            return _structs_in(kind.type)
        case inspect.UnionType():
            return [struct for one in kind.types for struct in _structs_in(one)]
        case inspect.VarTupleType():
            return _structs_in(kind.item_type)
        case inspect.DictType():
            return _structs_in(kind.value_type)
        case inspect.StructType():
            return [kind]
        case _:
            return []


def _pass_through() -> Iterator[str]:
    yield "\n## Settings that are handed to libraries by name\n"
    yield "Known names are checked for their type; any other is a warning, and the worker checks it against the library before it loads a model."
    for section, names in SECTIONS.items():
        place, about = _SECTION_PLACES[section]
        yield f"\n### {place}\n\n{about}\n"
        for kind, words in _KINDS.items():
            known = sorted(name for name, one in names.kinds.items() if one == kind)
            if known:
                yield f"- {words}: {_listed(known)}"
        if names.aliases:
            yield "- older names: " + ", ".join(f"`{older}` → `{name}`" for older, name in sorted(names.aliases.items()))
        if names.dead:
            yield f"- without effect, with a warning: {_listed(sorted(names.dead))}"


def _shorthands() -> Iterator[str]:
    yield "\n## Shorter and older forms\n"
    yield "| written | stands for |\n| --- | --- |"
    yield "| `data: [a, b]`, `data: {prompts: […]}`, `inference: {prompts: […]}` | `data: {type: list, items: […]}` |"
    yield "| `data: {jsonl: {path: …}}`, `data: {jsonl: …}`, `data: {jsonl_path: …}` | `data: {type: jsonl, path: …}` |"
    yield "| `data` or `model.source` without `type` | the form that has its keys |"
    for start, moved in (("", MOVED), ("hyperparameters.", MOVED_HYPERPARAMETERS), ("retrieval.", MOVED_IN_RETRIEVAL)):
        for name, path in moved.items():
            target = ".".join(map(str, ("retrieval", *path) if start == "retrieval." else path))
            yield f"| `{start}{name}` | `{target}` |"
    yield "| any other `hyperparameters.NAME` | `training.NAME`; of an agent, where it is a name of `agent`, `agent.NAME` |"
    yield "| `model: {lora: …}` | `model: {adapter: …}` |"
    yield "| `retrieval.qdrant` without a `store`; `retrieval.qdrant.collection` | `store: qdrant`; `retrieval.collection` |"
    yield "| `reward_model: NAME`, `notify: URL` | `reward_model: {identifier: NAME}`, `notify: {url: URL}` |"
    yield "| `taskType: rag_inference`, `agent_inference` | `rag`, `agent` |"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _anchor(heading: str) -> str:
    """As GitHub makes them."""
    return "".join(char for char in heading.lower().replace(" ", "-") if char.isalnum() or char in "-_")


if __name__ == "__main__":
    raise SystemExit(main())
