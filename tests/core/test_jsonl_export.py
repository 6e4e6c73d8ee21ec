"""Rows of a result become rows of a training set."""

import json

import pytest

from mloc.core.jsonl_export import ExportCounts, export_file, export_line
from mloc.core.language.data_spec import ExportField, JsonlExport

ITEM = {"index": 0, "prompt": "p", "output": "o", "metadata": {"k": 1, "answer": "a"}}


def test_fields_come_from_where_they_are_said_to() -> None:
    fields = {
        "prompt": ExportField(source="prompt"), "response": ExportField(source="output"), "answer": ExportField(source="metadata"),
        "level": ExportField(source="metadata", key="k"), "source": ExportField(source="literal", value="made"),
    }  # fmt: skip
    line = export_line(JsonlExport(fields=fields), ITEM, ExportCounts())
    assert json.loads(line) == {"prompt": "p", "response": "o", "answer": "a", "level": 1, "source": "made"}
    assert line.endswith(b"\n")


def test_without_fields_it_is_what_training_reads() -> None:
    assert json.loads(export_line(JsonlExport(), ITEM, ExportCounts())) == {"prompt": "p", "response": "o"}


def test_rows_without_an_answer_or_a_required_field_are_skipped_and_counted() -> None:
    export = JsonlExport(fields={"a": ExportField(source="output"), "k": ExportField(source="metadata")}, required_fields=("a", "k"))
    counts = ExportCounts()
    items = [ITEM, {**ITEM, "output": ""}, {**ITEM, "metadata": {}}, {"index": 3, "error": {"type": "E", "message": "m"}}, "no item"]
    assert [bool(export_line(export, item, counts)) for item in items] == [True, False, False, False, False]
    assert (counts.rows, counts.skipped) == (1, 4)


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "."])
def test_a_path_out_of_the_artifacts_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="does not lie below"):
        export_file(JsonlExport(path=path))
