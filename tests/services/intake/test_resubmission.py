"""A family of the log once more is what submitting its file again would have given: for every template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mloc.core.events import TaskSubmitted
from mloc.core.language.reading import read_tasks
from mloc.core.resubmission import submitted_again
from mloc.services.intake.submission import Found, ModelDefaults, submission_of

TEMPLATES = [file for layer in ("core", "experiments") for file in sorted((Path(__file__).parents[3] / "templates" / layer).glob("*.yaml"))]


class OneResult:
    def find(self, id_or_name: str) -> Found:
        return Found(id_or_name, "17-0")


def numbered(prefix: str) -> Callable[[str], str]:
    count = iter(range(1000))
    return lambda name: f"{prefix}{next(count)}"


def families(file: Path, prefix: str) -> list[list[TaskSubmitted]]:
    plans = read_tasks(file.read_bytes(), file.name).documents
    submitted = submission_of(plans, new_id=numbered(prefix), known=OneResult(), defaults=ModelDefaults("m", "m"), key="k", body_sha256="b")
    return [[root, *(event for event in submitted.events if event.parent == root.task)] for root in submitted.roots]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_family_again_is_its_file_submitted_again(file: Path) -> None:
    new_id = numbered("new")
    again = [submitted_again(family, new_id, {id: "17-0" for event in family for id in event.met})[0] for family in families(file, "old")]
    plain = [
        [{name: getattr(event, name) for name in event.__struct_fields__ if name not in ("idempotency_key", "body_sha256")} for event in family]
        for family in families(file, "new")
    ]
    outside = {f"old{i}": f"new{i}" for i in range(1000)}  # another document's task: it stays the old one, which ran already
    for ours, theirs in zip(again, plain, strict=True):
        for event, fields in zip(ours, theirs, strict=True):
            assert event.idempotency_key == event.body_sha256 == ""
            for name, value in fields.items():
                mine = getattr(event, name)
                if name == "depends_on":
                    mine = tuple(outside.get(id, id) for id in mine)
                assert bytes(mine) == bytes(value) if name == "spec" else mine == value, name
