"""Writes docs/templates.md from the templates themselves: `python -m mloc.services.intake.templates_page`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.language.model_spec import HuggingFaceSource
from mloc.core.language.plan import PlannedTask
from mloc.core.language.reading import read_tasks
from mloc.core.language.references import find_references
from mloc.core.language.yaml_source import decode_text, load_documents
from mloc.services.intake.task_file import LAYERS, TEMPLATES, layer_of, templates, title_of

HEAD = """# Templates

Task files to start from. Each is a whole pipeline with a comment for every line that is not plain; most run offline, on tiny models made on the spot.

    mloc-intake templates                                # this table
    mloc-intake templates show chain > mine.yaml         # a copy to change
    mloc-intake submit --template chain --wait           # or as it is
    mloc-intake submit --template sft_tiny --set spec.training.max_steps=50 --wait

The layer `core` shows how tasks are put together; `experiments` has kinds of work that need more, or that one wants to compare.
Every template has a case in `templates/cases/`: the values that make it small, and what must come of it; the tests run each of them on real
processes. The last column names what is not in this version yet: such a template is accepted and waits.

<!-- Made from the templates: `make docs`. -->

| template | layer | what it shows | task types | needs | waits for |
| --- | --- | --- | --- | --- | --- |
"""


def templates_page() -> str:
    """docs/templates.md."""
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in _rows())


def main() -> int:
    page = Path(__file__).resolve().parents[2] / "docs" / "templates.md"
    page.write_text(templates_page())
    print(f"wrote {page}")
    return 0


def _rows() -> Iterator[tuple[str, ...]]:
    for name, path in sorted(templates().items(), key=lambda pair: (LAYERS.index(layer_of(pair[1])), pair[0])):
        tasks = [task for plan in read_tasks(path.read_bytes(), name).documents for task in plan.tasks if task.role != "pipeline"]
        types = ", ".join(dict.fromkeys(f"`{task.task_type}`" for task in tasks))
        link = f"[`{name}`](../templates/{layer_of(path)}/{path.name})"
        yield link, layer_of(path), title_of(path), types, ", ".join(dict.fromkeys(_needs(tasks))) or "nothing", str(_case(name).get("waits_for", ""))


def _needs(tasks: list[PlannedTask]) -> Iterator[str]:
    for task in tasks:
        spec = task.spec
        if isinstance(spec.model.source, HuggingFaceSource):
            yield f"the model `{spec.model.source.identifier}`"
        if spec.resources.hardware.gpu is not None:
            yield f"{spec.resources.hardware.gpu.count} GPU"
        for found in find_references(msgspec.to_builtins(spec)):
            if found.reference.kind == "env":
                yield f"the variable `{found.reference.name}`"
        destination = spec.output.destination
        if destination is not None and destination.url:
            yield "a server that takes the result"


def _case(name: str) -> dict[str, Any]:
    documents, _ = load_documents(decode_text((TEMPLATES / "cases" / f"{name}.yaml").read_bytes()))
    return dict(documents[0])


if __name__ == "__main__":
    raise SystemExit(main())
