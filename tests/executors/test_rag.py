"""Answers from documents with tiny models, through a real host."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import Failed, Stopped, Succeeded, Telemetry
from mloc.executors.registry import BUILT_IN

MISSING = BUILT_IN["rag"].missing()

pytestmark = [pytest.mark.models, pytest.mark.deep, pytest.mark.skipif(bool(MISSING), reason=f"mloc[rag] is not installed: {', '.join(MISSING)}")]

TEXT = ["Lima is the capital of Peru. Tokyo is the capital of Japan. Snow is white. Blood is red. Paris is the capital of France."]
SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 400, "tokenizer_text": TEXT}
ENCODER = {**SCRATCH, "architecture": "bert"}
FACTS = [
    {"text": "Lima is the capital of Peru.", "source": "atlas", "page": 1},
    {"text": "Tokyo is the capital of Japan.", "source": "atlas", "page": 2},
    {"text": "Snow is white.", "source": "weather"},
    {"text": "Blood is red.", "source": "medicine"},
]
STORES = ["faiss", "chromadb", "qdrant"]
names = iter(range(10_000))


def rag(folder: Path, rows: list[Any] | None, name: str = "", attempt: int = 1, run: dict[str, Any] | None = None, **retrieval: Any) -> Any:
    given = {"documents": FACTS, "embedding": {"source": ENCODER}, "search": {"top_k": 2}, "returns": "passages", **retrieval}
    spec = {"model": {"source": SCRATCH}, "retrieval": given, "inference": {"max_tokens": 8, "temperature": 0}}
    if rows is not None:
        spec["data"] = {"type": "list", "items": rows}
    of_run = {"run_cache_folder": str(folder / ".cache"), **{f"run_{key}": value for key, value in (run or {}).items()}}
    return task(name or f"r{next(names)}", "rag", folder, attempt, **spec, **of_run)


def run(host: DrivenHost, one: Any) -> dict[str, Any]:
    host.send(one)
    return published_result(host, one.task, Path(one.final_folder).parent, one.attempt)


def failure(host: DrivenHost, one: Any) -> Any:
    host.send(one)
    return host.wait_of(Failed, one.task).error


def lines(host: DrivenHost, one: Any) -> list[str]:
    frames = [frame for frame in host.frames if isinstance(frame, Telemetry) and (frame.task, frame.attempt) == (one.task, one.attempt)]
    return [line for frame in frames for line in frame.lines]


@pytest.mark.parametrize("store", STORES)
def test_passages_come_with_source_position_and_the_same_score_from_every_store(warm_host: DrivenHost, tmp_path: Path, store: str) -> None:
    result = run(warm_host, rag(tmp_path, ["Snow is white.", {"prompt": "the capital of Japan", "metadata": {"n": 1}}], store=store))
    first, second = result["items"]
    assert first["passages"][0] == {"text": "Snow is white.", "source": "weather", "position": 0, "score": pytest.approx(1, abs=1e-4)}
    assert [len(item["passages"]) for item in result["items"]] == [2, 2]
    assert second["passages"][0]["score"] >= second["passages"][1]["score"]
    assert second["metadata"] == {"n": 1}
    assert (result["index"]["passages"], result["index"]["dimension"], result["index"]["store"]) == (4, 32, store)
    faiss = run(warm_host, rag(tmp_path, ["the capital of Japan"]))["items"][0]["passages"]
    assert [(one["text"], one["score"]) for one in second["passages"]] == [(one["text"], pytest.approx(one["score"], abs=1e-3)) for one in faiss]


@pytest.mark.parametrize("store", STORES)
def test_filters_thresholds_and_variety_are_followed_by_every_store(warm_host: DrivenHost, tmp_path: Path, store: str) -> None:
    def texts(**search: Any) -> list[str]:
        found = run(warm_host, rag(tmp_path, ["Snow is white."], store=store, search=search))["items"][0]["passages"]
        return [passage["text"] for passage in found]

    assert set(texts(top_k=9, filter={"source": "atlas"})) == {FACTS[0]["text"], FACTS[1]["text"]}
    assert set(texts(top_k=9, filter={"source": ["atlas", "medicine"]})) == {FACTS[0]["text"], FACTS[1]["text"], FACTS[3]["text"]}
    assert texts(top_k=9, filter={"page": 2}) == [FACTS[1]["text"]]
    assert texts(top_k=9, filter={"source": "nowhere"}) == []
    assert texts(top_k=4, score_threshold=0.999) == ["Snow is white."]
    varied = texts(top_k=4, type="mmr", lambda_mult=0.1)
    assert varied[0] == "Snow is white."
    assert sorted(varied) == sorted(fact["text"] for fact in FACTS)


def test_the_model_answers_with_the_passages_before_the_question(warm_host: DrivenHost, tmp_path: Path) -> None:
    rows = ["Snow is white.", {"x": 1}, {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Blood"}]}]
    result = run(warm_host, rag(tmp_path, rows, returns="answer"))
    first, wrong, chat = result["items"]
    assert first["prompt"] == "Snow is white."
    assert first["finish_reason"] in ("stop", "length")
    assert isinstance(first["output"], str)
    assert len(first["passages"]) == len(chat["passages"]) == 2
    assert wrong["error"]["type"] == "NoPrompt"
    longer = run(warm_host, rag(tmp_path, rows[:1], returns="answer", search={"top_k": 4}))["items"][0]
    assert longer["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] > 20
    assert any("tokens/s" in line for frame in warm_host.frames if isinstance(frame, Telemetry) for line in frame.lines)


def test_documents_of_every_kind_are_read_and_cut_where_they_stand(warm_host: DrivenHost, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("Lima is the capital of Peru. " * 8)
    (folder / "b.md").write_text("# Snow\n\nSnow is white.\n\n# Blood\n\nBlood is red.\n")
    page = "<html><head><title>no</title></head><body><p>Tokyo is <b>in Japan</b>.</p><script>no()</script></body></html>"
    (folder / "deep" / "c.html").write_text(page)
    (folder / "d.jsonl").write_text('{"text": "Paris is in France.", "title": "France", "year": 1900}\n')
    (folder / ".hidden.txt").write_text("hidden")
    from pypdf import PdfWriter

    with (folder / "e.pdf").open("wb") as file:
        writer = PdfWriter()
        writer.add_blank_page(72, 72)
        writer.write(file)
    one = rag(tmp_path, ["Snow is white."], documents=str(folder), chunking={"size": 60, "overlap": 10}, search={"top_k": 50})
    passages = run(warm_host, one)["items"][0]["passages"]
    by_source: dict[str, list[dict[str, Any]]] = {}
    for passage in passages:
        by_source.setdefault(passage["source"], []).append(passage)
    assert by_source.keys() == {"a.txt", "b.md", "deep/c.html", "France"}
    text = (folder / "a.txt").read_text()
    assert len(by_source["a.txt"]) >= 4
    assert all(text[one["position"] :].startswith(one["text"]) and len(one["text"]) <= 60 for one in by_source["a.txt"])
    assert [one["text"] for one in by_source["deep/c.html"]] == ["Tokyo is in Japan."]
    assert by_source["France"][0]["metadata"] == {"title": "France", "year": 1900}
    assert {one["text"] for one in by_source["b.md"]} >= {"# Snow\n\nSnow is white."} or len(by_source["b.md"]) == 1


def test_an_earlier_stages_items_are_documents(warm_host: DrivenHost, tmp_path: Path) -> None:
    answered = {"index": 0, "prompt": "p", "output": "Snow is white.", "metadata": {"kind": "fact"}}
    items = [answered, {"index": 1, "prompt": "p", "error": {"type": "x"}}]
    result = run(warm_host, rag(tmp_path, ["Snow is white."], documents=items))
    assert result["index"]["passages"] == 1
    assert result["items"][0]["passages"][0]["metadata"] == {"kind": "fact"}


def test_the_same_documents_are_not_embedded_again(warm_host: DrivenHost, tmp_path: Path) -> None:
    first = run(warm_host, rag(tmp_path, ["Snow"]))["index"]
    again = run(warm_host, rag(tmp_path, ["Blood"], store="chromadb"))["index"]
    assert (first["embedded"], again["embedded"]) == (4, 0)
    assert first["key"] == again["key"]
    others = [{"documents": FACTS[:3]}, {"chunking": {"size": 10, "overlap": 0}}, {"embedding": {"source": {**ENCODER, "seed": 1}}}]
    changed = [run(warm_host, rag(tmp_path, ["Snow"], **other))["index"] for other in others]
    assert all(index["embedded"] > 0 and index["key"] != first["key"] for index in changed)
    taken = run(warm_host, rag(tmp_path, ["Snow is white."], documents=None, index=first["path"]))
    assert taken["items"][0]["passages"][0]["text"] == "Snow is white."
    assert Path(taken["index"]["path"]).is_dir()


def test_a_damaged_index_is_made_again_where_the_documents_are_there(warm_host: DrivenHost, tmp_path: Path) -> None:
    first = run(warm_host, rag(tmp_path, ["Snow"]))["index"]
    (kept,) = (tmp_path / ".cache" / "indexes").iterdir()
    (kept / "vectors.npy").unlink()
    (kept / "vectors.npy").write_bytes(b"torn")
    second = rag(tmp_path, ["Snow"])
    again = run(warm_host, second)["index"]
    assert again["embedded"] == 4
    assert any("is damaged" in line for line in lines(warm_host, second))
    assert run(warm_host, rag(tmp_path, ["Snow"]))["index"]["embedded"] == 0
    (Path(first["path"]) / "passages.jsonl").unlink()
    error = failure(warm_host, rag(tmp_path, ["Snow"], documents=None, index=first["path"]))
    assert (error.type, error.retryable) == ("IndexDamaged", False)


@pytest.mark.parametrize("store", STORES)
def test_a_store_in_a_folder_is_kept_and_searched_by_a_task_without_documents(warm_host: DrivenHost, tmp_path: Path, store: str) -> None:
    place = {"path": "stores/s", "store": store, "collection": "facts", "run": {"fetched": {"stores/s": str(tmp_path / "stores" / "s")}}}
    for _ in range(2):  # putting the same passages twice leaves them once
        assert run(warm_host, rag(tmp_path, ["Snow is white."], **place))["index"]["passages"] == 4
    found = run(warm_host, rag(tmp_path, ["Snow is white."], documents=None, **place))["items"][0]["passages"]
    assert found[0]["text"] == "Snow is white."
    assert found[0]["source"] == "weather"
    fewer = run(warm_host, rag(tmp_path, ["Snow is white."], **{**place, "documents": FACTS[:2]}))["items"][0]["passages"]
    assert {passage["source"] for passage in fewer} == {"atlas"}
    wider = {"embedding": {"source": {**ENCODER, "hidden_size": 64}}}
    error = failure(warm_host, rag(tmp_path, ["Snow"], **{**place, **wider, "documents": None}))
    assert (error.type, error.retryable) == ("DimensionMismatch", False)
    assert "32 numbers" in error.message
    assert "64" in error.message


def test_a_second_model_sorts_the_passages_again(warm_host: DrivenHost, tmp_path: Path, random_model: Path) -> None:
    search = {"top_k": 2, "rerank": str(random_model)}
    found = run(warm_host, rag(tmp_path, ["Blood is red."], search=search))["items"][0]["passages"]
    assert found[0]["text"] == "Blood is red."
    assert found[0]["score"] == pytest.approx(1, abs=1e-4)


def test_a_task_without_questions_makes_an_index_for_others(warm_host: DrivenHost, tmp_path: Path) -> None:
    built = run(warm_host, rag(tmp_path, None))
    assert built["items"] == []
    asked = run(warm_host, rag(tmp_path, ["Snow is white."], documents=None, index=built["index"]["path"], store="qdrant"))
    assert asked["items"][0]["passages"][0]["text"] == "Snow is white."


def embedding_in_part(folder: Path, interrupt: Callable[[Any, Callable[[Any], bool]], None]) -> tuple[str, dict[str, Any], int]:
    """A task that was interrupted while it embedded: its name, its retrieval, its passages. How many that takes depends on the machine."""
    for count in (2_000, 10_000, 50_000, 250_000):
        passages = [f"Snow is white and fact {number} is red. " * 3 for number in range(count)]
        retrieval = {"embedding": {"source": ENCODER, "batch_size": 4}, "documents": passages}
        one = rag(folder, ["Snow"], f"{folder.name}-{count}", **retrieval)
        interrupt(one, lambda frame, name=one.task: isinstance(frame, Stopped | Succeeded) and frame.task == name)
        recorded = sum(len(part.read_text().splitlines()) for part in Path(one.rows_folder).glob("index-*/attempt-1.jsonl"))
        if 0 < recorded < count:
            return one.task, retrieval, count
    raise AssertionError("no task was met while it embedded")


def test_an_index_whose_making_was_stopped_goes_on_where_it_was(warm_host: DrivenHost, tmp_path: Path) -> None:
    def stop(one: Any, is_over: Callable[[Any], bool]) -> None:
        warm_host.send(one)
        warm_host.wait_for(lambda frame: is_over(frame) or (isinstance(frame, Telemetry) and frame.task == one.task and "passages" in frame.metrics))
        warm_host.stop(one.task)
        warm_host.wait_for(is_over)

    name, retrieval, count = embedding_in_part(tmp_path, stop)
    second = rag(tmp_path, ["Snow"], name, 2, **retrieval)
    result = run(warm_host, second)
    assert 0 < result["index"]["embedded"] < count
    assert any("are embedded by an earlier attempt" in line for line in lines(warm_host, second))


def test_a_host_that_was_killed_while_it_embedded_leaves_its_vectors(host: Any, warm_host: DrivenHost, tmp_path: Path) -> None:
    def kill(one: Any, is_over: Callable[[Any], bool]) -> None:
        killed = host()
        killed.send(one)
        rows = Path(one.rows_folder)
        killed.wait_for(lambda frame: is_over(frame) or any(part.stat().st_size for part in rows.glob("index-*/attempt-1.jsonl")))
        killed.child.send_signal(signal.SIGKILL)
        killed.child.wait()

    name, retrieval, count = embedding_in_part(tmp_path, kill)
    result = run(warm_host, rag(tmp_path, ["Snow"], name, 2, **retrieval))
    assert 0 < result["index"]["embedded"] < count


def test_answers_of_an_earlier_attempt_are_not_made_again(warm_host: DrivenHost, tmp_path: Path) -> None:
    one = rag(tmp_path, ["Snow", "Blood"], "answered", 2, returns="answer")
    rows = Path(one.rows_folder)
    rows.mkdir(parents=True)
    recorded = {"index": 1, "prompt": "Blood", "output": "recorded", "passages": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    (rows / "attempt-1.jsonl").write_text(json.dumps(recorded) + "\n")
    items = run(warm_host, one)["items"]
    assert items[1]["output"] == "recorded"
    assert len(items[0]["passages"]) == 2


@pytest.mark.parametrize(
    ("given", "type_", "said", "retryable"),
    [
        ({"documents": []}, "NoDocuments", "holds no text", False),
        ({"documents": ["", "  "]}, "NoDocuments", "holds no text", False),
        ({"documents": None}, "NoDocuments", "neither retrieval.documents nor retrieval.index", False),
        ({"documents": [{"a": 1}]}, "WrongColumns", "documents[0] has none of the columns text", False),
        ({"documents": "/no/such/folder"}, "FileNotFound", "/no/such/folder", False),
        ({"documents": None, "index": "/no/such/index"}, "IndexNotFound", "/no/such/index", False),
        ({"chunking": {"size": 10, "overlap": 10}}, "BadSetting", "is not smaller than size", False),
        ({"prompt": "only {question}"}, "BadSetting", "both of them", False),
        ({"embedding": {}}, "NoModel", "retrieval.embedding.model", False),
        ({"store": "qdrant", "qdrant": {"url": "http://127.0.0.1:9", "timeout": 2}}, "StoreUnreachable", "http://127.0.0.1:9", True),
        ({"store": "qdrant", "qdrant": {"url": "http://127.0.0.1:9", "speed": 9}}, "StoreFailed", "speed", False),
        ({"store": "qdrant", "qdrant": {"path": "/tmp/anywhere"}}, "BadSetting", "write the folder as retrieval.path", False),
        ({"path": "relative"}, "BadSetting", "gave no folder", False),
    ],
)
def test_what_is_wrong_is_said_so_that_a_person_understands(
    warm_host: DrivenHost, tmp_path: Path, given: dict[str, Any], type_: str, said: str, retryable: bool
) -> None:
    error = failure(warm_host, rag(tmp_path, ["Snow"], **given))
    assert (error.type, error.retryable) == (type_, retryable), error.message
    assert said in error.message


@pytest.mark.parametrize("store", ["chromadb", "qdrant"])
def test_a_store_that_is_damaged_is_said(warm_host: DrivenHost, tmp_path: Path, store: str) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    for name in ("chroma.sqlite3", "meta.json"):
        (folder / name).write_text("this is neither")
    place = {"path": "stores", "store": store, "run": {"fetched": {"stores": str(folder)}}}
    error = failure(warm_host, rag(tmp_path, ["Snow"], **place))
    assert (error.type, error.retryable) == ("StoreFailed", False), error.message
    assert str(folder) in error.message
