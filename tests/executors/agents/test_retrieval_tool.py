"""Looking documents up."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason='agents need langchain: pip install "mloc[agent]"')
pytest.importorskip("rank_bm25", reason='the tool retrieval: pip install "mloc[agent]"')
pytest.importorskip("langchain_text_splitters", reason='the tool retrieval: pip install "mloc[agent]"')

from mloc.core.language.inference_spec import Chunking, Retrieval, Search
from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.retrieval import KIND, Options
from mloc.executors.agents.tools.toolbox import Place
from mloc.executors.contract import ExecutorError


class Here:
    """A context in which names are paths."""

    def local(self, named: str) -> str:
        return named


def look_up(query: str, options: Options, retrieval: Retrieval | None = None) -> str:
    spec = TaskSpec(task_type="agent", retrieval=retrieval)
    KIND.check(options, spec)
    context: Any = Here()
    (tool,) = KIND.make(options, Place(Path(), lambda: 1.0, lambda: False, print, spec, context), ExitStack())
    return str(tool.invoke({"query": query}))


def test_the_passages_that_share_words_come_best_first() -> None:
    documents = ("Lima is the capital of Peru.", {"text": "Snow is white.", "source": "colours"}, "Tokyo is the capital of Japan.")
    found = look_up("What is the capital of Peru?", Options(documents, top_k=2)).split("\n\n")
    assert found == ["[documents[0]] Lima is the capital of Peru.", "[documents[2]] Tokyo is the capital of Japan."]
    assert look_up("white", Options(documents)) == "[colours] Snow is white."
    assert look_up("zebra", Options(documents)) == "(no document has these words)"


def test_documents_come_from_files_and_folders_and_from_the_tasks_own_section(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "peru.md").write_text("Lima is in Peru. " + "x " * 500 + "The end is far.")
    (tmp_path / "rows.jsonl").write_text('{"text": "Rome is in Italy.", "source": "atlas"}\n')
    assert look_up("Italy", Options(str(tmp_path / "rows.jsonl"))) == "[atlas] Rome is in Italy."
    section = Retrieval(documents=str(tmp_path / "notes"), chunking=Chunking(size=100, overlap=10), search=Search(top_k=1))
    assert look_up("far", Options(), section).startswith("[peru.md] ")
    assert len(look_up("Peru", Options(), section)) < 120


def test_four_passages_are_found_where_nothing_is_said() -> None:
    documents = tuple(f"fact {number} is red" for number in range(9))
    assert len(look_up("red fact", Options(documents), Retrieval()).split("\n\n")) == 4


def test_no_documents_are_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match="there are no documents"):
        look_up("x", Options())
    with pytest.raises(ExecutorError, match="none"):
        look_up("x", Options(str(tmp_path / "none.txt")))
