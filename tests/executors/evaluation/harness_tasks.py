"""Tasks of lm-evaluation-harness that run offline: one that has a model write, one that has it choose."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_tasks(folder: Path, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Files of `facts` (exact_match of what is written) and `choices` (acc), over rows with prompt and response."""
    (folder / "facts.jsonl").write_text("".join(json.dumps(row | {"wrong": "seven"}) + "\n" for row in rows))
    config = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "facts.jsonl"}}, "test_split": "test",
        "doc_to_text": "{{prompt}}", "target_delimiter": "",
    }  # fmt: skip
    written = {
        "facts": {
            "output_type": "generate_until", "doc_to_target": "{{response}}",
            "generation_kwargs": {"until": ["<|end|>"], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}],
        },
        "choices": {
            "output_type": "multiple_choice", "doc_to_choice": "{{[response, wrong]}}", "doc_to_target": 0, "metric_list": [{"metric": "acc"}],
        },
    }  # fmt: skip
    for name, own in written.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **config, **own}))
    return [str(folder / f"{name}.yaml") for name in written]
