"""What a task of type rag cannot do without."""

import pytest
from task_files import task

from mloc.core.language.errors import LanguageError
from mloc.core.language.reading import read_tasks


def test_a_task_without_retrieval_is_refused() -> None:
    with pytest.raises(LanguageError, match="needs retrieval"):
        read_tasks(task("taskType: rag\nprompts: [a]"))


@pytest.mark.parametrize(
    ("retrieval", "said"),
    [
        ("{documents: [a]}", ["names no embedding model"]),
        ("{embedding: e}", ["names nothing to look up in"]),
        ("{embedding: e, path: stores/a}", []),
        ("{embedding: {source: {type: local, identifier: /m}}, index: /i}", []),
        ("{embedding: e, documents: a.md}", []),
    ],
)
def test_what_is_missing_in_retrieval_is_a_warning(retrieval: str, said: list[str]) -> None:
    warnings = read_tasks(task(f"taskType: rag\nprompts: [a]\nretrieval: {retrieval}")).warnings
    assert len(warnings) == len(said)
    assert all(text in str(warning) for text, warning in zip(said, warnings, strict=True))
