"""Vectors, scores and ranks from tiny models, through a real host."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import EngineLoaded, Failed, RowsDone, Stopped, Succeeded, Telemetry

pytestmark = pytest.mark.models

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 128}
SCRATCH = {"source": {"type": "scratch", **SIZES, "tokenizer_text": ["the quick brown fox jumps over the lazy dog"]}}
ENCODER = {"source": {**SCRATCH["source"], "architecture": "bert"}}
names = iter(range(10_000))


def asked(folder: Path, task_type: str, items: list[Any], name: str = "", **given: Any) -> Any:
    spec = {"model": SCRATCH, "data": {"type": "list", "items": items}, **given}
    return task(name or f"p{next(names)}", task_type, folder, **spec)


def run(host: DrivenHost, one: Any) -> dict[str, Any]:
    host.send(one)
    return published_result(host, one.task, Path(one.final_folder).parent, one.attempt)


@pytest.mark.parametrize("model", [SCRATCH, ENCODER], ids=["llama", "bert"])
def test_each_text_has_a_vector_of_length_one_whatever_its_batch(warm_host: DrivenHost, tmp_path: Path, model: dict[str, Any]) -> None:
    texts = ["the fox", {"text": "a lazy dog", "metadata": {"topic": "dogs"}}, {"prompt": "jumps over and over"}]
    result = run(warm_host, asked(tmp_path, "embed", texts, model=model))
    vectors = numpy.array([item["embedding"] for item in result["items"]])
    assert vectors.shape == (3, 32) == (3, result["dimension"])
    assert numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert result["items"][1]["metadata"] == {"topic": "dogs"}
    assert result["engine"]["name"] == "transformers"
    assert result["engine"]["why"] == "vLLM gives vectors and scores only to tasks that ask for it"
    assert result["usage"]["total_tokens"] == result["usage"]["prompt_tokens"] > 5
    alone = run(warm_host, asked(tmp_path, "embed", texts[2:], model=model))["items"][0]["embedding"]
    assert numpy.allclose(alone, vectors[2], atol=1e-5)


def test_vectors_may_keep_their_length_and_be_pooled_otherwise(warm_host: DrivenHost, tmp_path: Path) -> None:
    settings = [{}, {"normalize": False}, {"pooling": "last"}, {"pooling": "cls"}, {"document_prompt": "passage: "}]
    found = [
        run(warm_host, asked(tmp_path, "embed", ["the quick fox"], retrieval={"embedding": one}))["items"][0]["embedding"] for one in settings
    ]
    lengths = [float(numpy.linalg.norm(vector)) for vector in found]
    assert lengths[1] != pytest.approx(1, abs=1e-3)
    assert numpy.allclose(numpy.array(found[1]) / lengths[1], found[0], atol=1e-5)
    assert all(not numpy.allclose(found[0], other, atol=1e-3) for other in found[2:])


def test_a_row_without_a_text_is_an_error_in_its_place(warm_host: DrivenHost, tmp_path: Path) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    items = run(warm_host, asked(tmp_path, "embed", ["one", {"x": 1}, {"prompt": picture}, {"text": ""}, {"prompt": "  "}, "two"]))["items"]
    assert [item.get("error", {}).get("type") for item in items] == [None, "NoText", "OnlyText", "NoText", "NoText", None]


def test_many_vectors_are_rows_of_a_file_and_an_error_is_a_row_of_nothing(warm_host: DrivenHost, tmp_path: Path) -> None:
    texts = [f"fox {number}" for number in range(3000)]
    one = asked(tmp_path, "embed", [*texts, {"x": 1}], retrieval={"embedding": {"batch_size": 256}})
    result = run(warm_host, one)
    assert warm_host.wait_of(Succeeded, one.task).files
    assert "embedding" not in result["items"][0]
    vectors = numpy.load(tmp_path / one.task / result["embeddings"]["file"])
    assert result["embeddings"]["path"] == str(tmp_path / one.task / "artifacts" / "embeddings.npy")
    assert vectors.shape == (3001, 32)
    assert numpy.isnan(vectors[3000]).all()
    few = run(warm_host, asked(tmp_path, "embed", texts[7:9]))["items"]
    assert numpy.allclose(vectors[7:9], [item["embedding"] for item in few], atol=1e-5)
    speeds = [frame.metrics["tokens_per_sec"] for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == one.task]
    assert speeds[-1] > 0


def test_a_stopped_attempt_leaves_its_vectors_and_the_next_does_the_others(warm_host: DrivenHost, tmp_path: Path) -> None:
    texts = [f"fox {number} jumps over dog {number}" for number in range(100_000)]  # more than any machine embeds before the stop
    few = {"embedding": {"batch_size": 16}}
    first = asked(tmp_path, "embed", texts, "stopped-embed", retrieval=few)
    warm_host.send(first)
    warm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == first.task and frame.step > 0)
    warm_host.stop(first.task)
    warm_host.wait_of(Stopped, first.task)
    done = sum(frame.rows for frame in warm_host.frames if isinstance(frame, RowsDone) and frame.task == first.task)
    assert 0 < done < len(texts)
    some = texts[: max(done + 40, 3000)]
    spec = {**json.loads(first.spec), "data": {"type": "list", "items": some}}
    run(warm_host, task(first.task, "embed", tmp_path, attempt=2, **{key: value for key, value in spec.items() if key != "taskType"}))
    assert any(f"{done} of {len(some)} rows are recorded by an earlier attempt" in line for frame in warm_host.frames
               if isinstance(frame, Telemetry) and frame.attempt == 2 for line in frame.lines)  # fmt: skip
    vectors = numpy.load(tmp_path / first.task / "artifacts" / "embeddings.npy")
    assert vectors.shape[0] == len(some)
    assert not numpy.isnan(vectors).any()


def test_an_encoder_stays_warm_for_the_next_task(warm_host: DrivenHost, tmp_path: Path) -> None:
    model = {"source": {**SCRATCH["source"], "seed": 77}}
    before = sum(isinstance(frame, EngineLoaded) and frame.loaded for frame in warm_host.frames)
    for _ in range(2):
        run(warm_host, asked(tmp_path, "embed", ["one"], model=model))
    run(warm_host, asked(tmp_path, "embed", ["two"], model=model, retrieval={"embedding": {"batch_size": 2}}))
    assert sum(isinstance(frame, EngineLoaded) and frame.loaded for frame in warm_host.frames) == before + 1


def test_without_a_model_the_task_says_so(warm_host: DrivenHost, tmp_path: Path) -> None:
    one = asked(tmp_path, "embed", ["a"], model={})
    warm_host.send(one)
    error = warm_host.wait_of(Failed, one.task).error
    assert (error.type, error.retryable) == ("NoModel", False)
    assert "names no embedding model" in error.message


@pytest.mark.extras
def test_the_libraries_two_ways_give_the_same_vectors(random_model: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (mloc[rag])")
    from mloc.core.language.inference_spec import Embedding
    from mloc.executors.models.weights import Weights
    from mloc.executors.pooling.encoder import _by_sentence_transformers, _by_transformers

    texts = ["the quick fox", "a dog", "lazy " * 300]
    plain = tmp_path / "plain"
    shutil.copytree(random_model, plain, ignore=shutil.ignore_patterns("chat_template*"))
    made = library.SentenceTransformer(str(plain), device="cpu", prompts={"query": "ask: ", "document": "say: "})
    assert made[1].pooling_mode == "lasttoken"
    made.save_pretrained(str(tmp_path))
    weights, settings = Weights(str(tmp_path)), {"dtype": "float32", "trust_remote_code": False}
    ways = [way(weights, dict(settings), "cpu", Embedding(), "m", "m") for way in (_by_sentence_transformers, _by_transformers)]
    one, other = (way.encode(texts, "query", True) for way in ways)
    assert numpy.allclose(one.vectors, other.vectors, atol=1e-5)
    assert one.tokens == other.tokens
    assert not numpy.allclose(one.vectors, ways[0].encode(texts, "document", True).vectors, atol=1e-3)
    assert ways[0].dimension == ways[1].dimension == 32


def test_an_answer_is_scored_by_how_likely_it_is(warm_host: DrivenHost, tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": "one", "response": "fox fox"}, {"prompt": "one", "response": "fox"}, {"text": "the fox"}]
    rows += [{"prompt": "one", "response": ""}, {"prompt": "one", "response": ["a", "b"]}]
    result = run(warm_host, asked(tmp_path, "score", rows))
    first, second, text, empty, several = result["items"]
    assert first["score"] == pytest.approx(first["logprob"] / first["tokens"], abs=1e-4)
    assert first["logprob"] < second["logprob"] < 0
    assert first["response"] == "fox fox"
    assert text["score"] < 0
    assert empty["error"]["type"] == "NoText"
    assert several["error"]["type"] == "SeveralAnswers"
    together = [item["score"] for item in result["items"][:3]]
    alone = [run(warm_host, asked(tmp_path, "score", [row]))["items"][0]["score"] for row in rows[:3]]
    assert together == pytest.approx(alone, abs=1e-4)


def test_the_likelihood_is_that_of_the_models_own_logits(random_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mloc.executors.models.model_loading import LoadedModel
    from mloc.executors.pooling.likelihood import likelihoods

    model, tokenizer = AutoModelForCausalLM.from_pretrained(random_model).eval(), AutoTokenizer.from_pretrained(random_model)
    (found,) = likelihoods([("the quick", " fox jumps")], LoadedModel(model, tokenizer, "m", None), True)
    before, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the quick", " fox jumps"))
    with torch.no_grad():
        loss = model(
            input_ids=torch.tensor([before + said]), labels=torch.tensor([[-100] * len(before) + said])
        ).loss  # fmt: skip
    assert found.a_token == pytest.approx(-float(loss), abs=1e-4)
    assert found.answer_tokens == len(said)


@pytest.fixture(scope="module")
def judge(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier of one number."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(random_model, num_labels=1)
    model.score.weight.data *= 20
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(random_model).save_pretrained(folder)
    return folder


def test_a_reward_model_scores_as_it_does_in_training(warm_host: DrivenHost, tmp_path: Path, judge: Path) -> None:
    from mloc.core.language.model_spec import LocalSource
    from mloc.core.language.training_spec import RewardModel
    from mloc.executors.contract import Context
    from mloc.executors.training.rewards.reward_models import load_scorer

    local = {"source": {"type": "local", "identifier": str(judge)}}
    result = run(warm_host, asked(tmp_path, "score", [{"prompt": "one", "response": "fox"}, {"prompt": "one", "response": "dog"}], model=local))
    nothing = tmp_path / "x"
    context = Context(nothing, nothing, nothing, {}, (), None, None, 0, lambda: False, lambda _: None)
    scorer = load_scorer(RewardModel(source=LocalSource(str(judge))), context)
    expected = scorer([[{"role": "user", "content": "one"}]] * 2, ["fox", "dog"])
    assert [item["score"] for item in result["items"]] == pytest.approx(expected, abs=1e-4)
    assert expected[0] != pytest.approx(expected[1], abs=1e-4)


@pytest.mark.parametrize("kind", ["cross-encoder", "scratch", "vectors"])
def test_passages_are_sorted_by_their_score(warm_host: DrivenHost, tmp_path: Path, judge: Path, random_model: Path, kind: str) -> None:
    folder = {"cross-encoder": judge, "vectors": random_model}.get(kind)
    model = SCRATCH if folder is None else {"source": {"type": "local", "identifier": str(folder)}}
    documents = ["lazy dogs", "the quick brown fox", {"text": "a fox", "source": "atlas"}]
    rows = [{"query": "quick fox", "documents": documents}, {"query": "no documents"}, {"query": "bad", "documents": [1]}]
    items = run(warm_host, asked(tmp_path, "rerank", rows, model=model))["items"]
    found = items[0]["results"]
    assert sorted(one["index"] for one in found) == [0, 1, 2]
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert next(one for one in found if one["index"] == 2)["source"] == "atlas"
    assert [item["error"]["type"] for item in items[1:]] == ["NoDocuments", "BadRow"]
    if kind == "vectors":
        same = run(warm_host, asked(tmp_path, "rerank", [{"query": "a fox", "documents": documents}], model=model))["items"][0]["results"]
        assert same[0]["text"] == "a fox"
        assert same[0]["score"] == pytest.approx(1, abs=1e-4)
    else:
        assert all(0 <= one["score"] <= 1 and not math.isnan(one["score"]) for one in found)


def test_only_the_best_are_kept_and_documents_may_be_shared_by_all_rows(warm_host: DrivenHost, tmp_path: Path) -> None:
    shared = {"documents": ["one fox", "two dogs", "three"], "search": {"top_k": 2}}
    items = run(warm_host, asked(tmp_path, "rerank", ["fox", {"query": "dogs"}, {"query": "own", "documents": ["a"]}], retrieval=shared))["items"]
    assert [len(item["results"]) for item in items] == [2, 2, 1]
