"""Looking documents up."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

pytest.importorskip("langchain_core", reason='agents need langchain: pip install "mloc[agent]"')
pytest.importorskip("rank_bm25", reason='the tool retrieval: pip install "mloc[agent]"')
pytest.importorskip("langchain_text_splitters", reason='the tool retrieval: pip install "mloc[agent]"')

from mloc.core.language.inference_spec import Chunking, Embedding, Retrieval, Search
from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.agent_settings import ToolChoice
from mloc.executors.agents.tools.retrieval import Options
from mloc.executors.agents.tools.toolbox import Ground, Place, check_tools, open_tools, prepare_tools
from mloc.executors.contract import Context, ExecutorError, Progress
from mloc.executors.registry import BUILT_IN

pytestmark = pytest.mark.extras

TEXT = ["Lima is the capital of Peru. Snow is white."]
ENCODER = ScratchSource(architecture="bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=400, tokenizer_text=TEXT)


def drained(preparing: Generator[Progress, None, list[Any]], lines: list[str]) -> list[Any]:
    while True:
        try:
            lines.extend(next(preparing).lines)
        except StopIteration as over:
            return list(over.value)


def opened(stack: ExitStack, folder: Path, options: Options, retrieval: Retrieval | None = None) -> tuple[Callable[[str], str], list[str]]:
    """The tool, as the questions of one task have it, and the lines of its preparation."""
    spec = TaskSpec(task_type="agent", retrieval=retrieval)
    folders = (folder / "attempt", folder / "final", folder / "rows")
    context = Context(*folders, {}, (), None, None, 0, lambda: False, print, cache_folder=folder / "cache")
    lines: list[str] = []

    def ask(query: str) -> str:
        (tool,) = open_tools(chosen, kept, Place(folder, lambda: 1.0, lambda: False, print, context), stack)
        return str(tool.invoke({"query": query}))

    chosen = [ToolChoice("retrieval", msgspec.to_builtins(options))]
    check_tools(chosen, spec)
    kept = drained(prepare_tools(chosen, Ground(1, spec, context, stack)), lines)
    return ask, lines


def look_up(query: str, options: Options, retrieval: Retrieval | None = None) -> str:
    with ExitStack() as stack:
        return opened(stack, Path(), options, retrieval)[0](query)


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


@pytest.mark.models
@pytest.mark.deep
@pytest.mark.skipif(bool(BUILT_IN["rag"].missing()), reason='passages by meaning: pip install "mloc[rag]"')
@pytest.mark.parametrize("store", ["faiss", "chromadb", "qdrant"])
def test_with_an_embedding_model_passages_are_found_by_meaning_in_an_index_that_is_made_once(tmp_path: Path, store: Any) -> None:
    documents = ("Lima is the capital of Peru.", "Snow is white.", "Tokyo is the capital of Japan.")
    section = Retrieval(documents=documents, embedding=Embedding(source=ENCODER), store=store, search=Search(top_k=1))
    with ExitStack() as stack:
        ask, said = opened(stack, tmp_path, Options(), section)
        assert ask("Snow is white.") == "[documents[1]] Snow is white."
        assert ask("Tokyo is the capital of Japan.") == "[documents[2]] Tokyo is the capital of Japan."
        assert len([line for line in said if "passages embedded" in line]) == 1
    index = str(tmp_path / "attempt" / "artifacts" / "index")
    with ExitStack() as stack:  # the index is part of the result: by meaning with its model, by words without one
        ask, _ = opened(stack, tmp_path / "later", Options(), replace(section, documents=None, index=index))
        assert ask("Snow is white.") == "[documents[1]] Snow is white."
        ask, _ = opened(stack, tmp_path / "words", Options(top_k=1), Retrieval(index=index))
        assert ask("japan") == "[documents[2]] Tokyo is the capital of Japan."
