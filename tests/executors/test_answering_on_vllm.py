"""Agents, evaluations and answers from documents whose model is vLLM's on the CPU, through a real host: as few engines as can be, because they
take long to start."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from agents.transcripts import LEARN, SCRATCH, transcript
from driven_host import DrivenHost, processes_of, task, wait_until
from evaluation.harness_tasks import write_tasks
from pipeline_run import published_result

from mloc.core.host_frames import EngineLoaded, Failed, RunTask, Stopped, Telemetry
from mloc.executors.inference.engine_choice import vllm_missing

MISSING = vllm_missing(on_device=False)
pytest.importorskip("langchain", reason='agents need langchain: pip install "mloc[agent]"')
pytestmark = [
    pytest.mark.models, pytest.mark.deep, pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "vLLM is there"),
]  # fmt: skip

MODEL = {**SCRATCH, "num_attention_heads": 2}  # of heads that are smaller than 32 vLLM knows nothing on the CPU
ENGINE = {"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": 128 << 20}
CALL = transcript("What is 17 times 23?", ("python_repl", {"code": "17 * 23"}, "391"), answer="It is 391.")
ANSWERS = {"What is the capital of Peru?": "Lima", "What is the capital of Japan?": "Tokyo", "Is snow white?": "yes", "Is coal white?": "no"}
names = iter(range(10_000))


@pytest.fixture(scope="module")
def trained(vllm_host: DrivenHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that was taught the transcripts."""
    folder = tmp_path_factory.mktemp("trained")
    taught = [CALL, *(transcript(question, answer=answer) for question, answer in ANSWERS.items())]
    vllm_host.send(task("teach", "sft", folder, model={"source": MODEL}, data={"type": "list", "items": taught}, training=LEARN))
    return str(published_result(vllm_host, "teach", folder)["final_model_path"])


@pytest.fixture(scope="module")
def engine(vllm_host: DrivenHost, trained: str, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The processes of the one engine, which is warm for every test."""
    model = {"source": {"type": "local", "identifier": trained}, "vllm": ENGINE}
    asked = task("warm", "inference", tmp_path_factory.mktemp("warm"), model=model, data={"type": "list", "items": ["Hello"]})
    assert run(vllm_host, asked)["engine"]["name"] == "vllm"
    return processes_of(vllm_host, "EngineCore")


@pytest.fixture
def ask(trained: str, tmp_path: Path) -> Any:
    """Makes a task on the trained model; with `by` vllm, on the one engine that they share."""

    def make(task_type: str, by: str = "vllm", **given: Any) -> RunTask:
        model = {"source": {"type": "local", "identifier": trained}, **({"vllm": ENGINE} if by == "vllm" else {})}
        inference = {"max_tokens": 60, "temperature": 0, **given.pop("inference", {})}
        return task(f"t{next(names)}", task_type, tmp_path, model=model, inference=inference, **given)

    return make


def run(host: DrivenHost, asked: RunTask) -> dict[str, Any]:
    host.send(asked)
    return published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)


def lines(host: DrivenHost, asked: RunTask) -> list[str]:
    return [line for frame in host.frames if isinstance(frame, Telemetry) and frame.task == asked.task for line in frame.lines]


def test_an_agent_calls_its_tool_as_it_does_with_transformers(vllm_host: DrivenHost, engine: list[int], ask: Any) -> None:
    settings = {"task": "What is 17 times 23?", "tools": ["python_repl"]}
    asked = ask("agent", agent=settings)
    by_vllm = run(vllm_host, asked)
    assert processes_of(vllm_host, "EngineCore") == engine  # the one that answers prompts
    by_transformers = run(vllm_host, ask("agent", "transformers", agent=settings))
    assert by_vllm["output"] == by_transformers["output"] == "It is 391."
    assert [step.get("observation") for step in by_vllm["steps"]] == [step.get("observation") for step in by_transformers["steps"]]
    assert (by_vllm["engine"]["name"], by_transformers["engine"]["name"]) == ("vllm", "transformers")
    assert by_vllm["usage"]["completion_tokens"] == by_transformers["usage"]["completion_tokens"]
    assert by_vllm["metrics"]["prompt_tokens"] == by_vllm["usage"]["prompt_tokens"]
    assert "answered by vllm: the task has settings in model.vllm" in lines(vllm_host, asked)


def test_questions_of_an_agent_that_is_stopped_are_left_for_the_next_attempt(vllm_host: DrivenHost, ask: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": "What is 17 times 23?"}]}] * 200
    asked = ask("agent", agent={"tools": ["python_repl"]}, data={"type": "list", "items": rows})
    vllm_host.send(asked)
    vllm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == asked.task and any("391" in line for line in frame.lines))
    vllm_host.stop(asked.task)
    vllm_host.wait_of(Stopped, asked.task)


def test_an_evaluation_finds_the_engine_warm_and_gives_the_scores_that_transformers_gives(vllm_host: DrivenHost, engine: list[int], ask: Any) -> None:
    rows = [{"prompt": question, "response": {"yes": "maybe"}.get(answer, answer)} for question, answer in ANSWERS.items()]
    given = {"data": {"type": "list", "items": [*rows, {"prompt": "Is snow white?"}]}, "eval": {"gate": {"metric": "accuracy", "min": 0.5}}}
    by_vllm, by_transformers = (run(vllm_host, ask("eval", by, **given)) for by in ("vllm", "transformers"))
    assert by_vllm["metrics"] == by_transformers["metrics"]
    assert by_vllm["metrics"]["accuracy"]["value"] == 0.6
    assert by_vllm["gate"]["passed"]
    assert by_vllm["items"][4]["error"]["type"] == "NoReference"
    assert [item.get("output") for item in by_vllm["items"]] == [item.get("output") for item in by_transformers["items"]]
    assert (by_vllm["engine"]["name"], by_transformers["engine"]["name"]) == ("vllm", "transformers")
    assert processes_of(vllm_host, "EngineCore") == engine


def test_a_judge_beside_the_engine_marks_its_answers(vllm_host: DrivenHost, engine: list[int], ask: Any, trained: str) -> None:
    rows = [{"prompt": question, "response": answer} for question, answer in ANSWERS.items()]
    result = run(vllm_host, ask("eval", data={"type": "list", "items": rows}, eval={"harness": "judge", "judge": trained}))
    assert all(item["scores"]["judge_score"] in range(1, 11) for item in result["items"])
    assert result["engine"]["name"] == "vllm"
    assert processes_of(vllm_host, "EngineCore") == engine


@pytest.mark.parametrize("kind", ["agent", "eval"])
def test_what_only_transformers_does_is_said_where_vllm_is_asked_for_by_name(vllm_host: DrivenHost, ask: Any, kind: str) -> None:
    of_kind = {"agent": {"agent": {"task": "x"}}, "eval": {"data": {"type": "list", "items": ["x"]}}}[kind]
    asked = ask(kind, inference={"engine": "vllm", "n": 2}, **of_kind)
    vllm_host.send(asked)
    if kind == "eval":
        assert "needs sampling" in vllm_host.wait_of(Failed, asked.task).error.message
    else:  # an agent asks for one answer at a time
        assert published_result(vllm_host, asked.task, Path(asked.final_folder).parent, 1)["engine"]["why"] == "inference.engine is vllm"


def test_the_harness_measures_the_engine_that_is_there_as_it_measures_transformers(
    vllm_host: DrivenHost, engine: list[int], ask: Any, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason='the harness lm-eval: pip install "mloc[eval]"')
    rows = [{"prompt": question, "response": {"no": "yes"}.get(answer, answer)} for question, answer in ANSWERS.items()]
    harness = {"harness": "lm-eval", "tasks": write_tasks(tmp_path, rows), "gate": {"metric": "acc", "min": 0.5}}
    by_vllm, by_transformers = (run(vllm_host, ask("eval", by, eval=harness, inference={"chat": "on"})) for by in ("vllm", "transformers"))
    assert by_vllm["metrics"] == by_transformers["metrics"]
    assert by_vllm["metrics"]["facts/exact_match"]["value"] == 0.75
    assert [item["output"] for item in by_vllm["items"][:4]] == [item["output"] for item in by_transformers["items"][:4]]
    assert (by_vllm["engine"]["name"], by_transformers["engine"]["name"]) == ("vllm", "transformers")
    assert processes_of(vllm_host, "EngineCore") == engine


def test_a_score_is_how_likely_the_engine_finds_an_answer(vllm_host: DrivenHost, engine: list[int], ask: Any) -> None:
    rows = [{"prompt": question, "response": answer} for question, answer in ANSWERS.items()]
    data = {"type": "list", "items": [*rows, {"text": "snow is white"}, {"prompt": "empty", "response": ""}, {"prompt": "x " * 600, "response": "y"}]}
    by_vllm, by_transformers = (run(vllm_host, ask("score", by, data=data)) for by in ("vllm", "transformers"))
    assert (by_vllm["engine"]["name"], by_transformers["engine"]["name"]) == ("vllm", "transformers")
    assert [item.get("error", {}).get("type") for item in by_vllm["items"]] == [None] * 5 + ["NoText", "TextTooLong"]
    for one, other in zip(by_vllm["items"][:5], by_transformers["items"], strict=False):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert (one["tokens"], one["usage"]) == (other["tokens"], other["usage"])
    assert processes_of(vllm_host, "EngineCore") == engine


def test_the_engines_death_is_the_attempts_failure_and_no_questions(vllm_host: DrivenHost, engine: list[int], ask: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": "What is 17 times 23?"}]}] * 400
    asked = ask("agent", agent={"tools": ["python_repl"]}, data={"type": "list", "items": rows})
    vllm_host.send(asked)
    vllm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == asked.task and any("391" in line for line in frame.lines))
    os.kill(engine[0], signal.SIGKILL)
    error = vllm_host.wait_of(Failed, asked.task).error
    assert (error.type, error.retryable) == ("EngineDied", True)
    recorded = "".join(file.read_text() for file in Path(asked.rows_folder).glob("*.jsonl"))
    assert '"error"' not in recorded


def test_answers_from_documents_are_those_of_transformers_and_the_second_task_finds_the_engine_warm(vllm_host: DrivenHost, ask: Any) -> None:
    pytest.importorskip("faiss", reason='documents need faiss: pip install "mloc[rag]"')
    facts = [{"text": "Lima is the capital of Peru.", "source": "atlas"}, {"text": "Snow is white.", "source": "weather"}]
    encoder = {**MODEL, "architecture": "bert", "tokenizer_text": [fact["text"] for fact in facts]}
    readable = {"max_tokens": 20, "allowed_token_ids": list(range(40, 100))}  # the engines show halves of characters differently

    def rag(by: str, **given: Any) -> RunTask:
        retrieval = {"documents": facts, "embedding": {"source": encoder}, "search": {"top_k": 1}, **given}
        rows = ["What is the capital of Peru?", {"x": 1}, "Snow is white. " * 200, *list(ANSWERS)[1:]]
        return ask("rag", by, retrieval=retrieval, data={"type": "list", "items": rows}, inference=readable)

    by_vllm, by_transformers = run(vllm_host, rag("vllm")), run(vllm_host, rag("transformers"))
    assert [item.get("error", {}).get("type") for item in by_vllm["items"]] == [None, "NoPrompt", "PromptTooLong", None, None, None]
    assert [item.get("output") for item in by_vllm["items"]] == [item.get("output") for item in by_transformers["items"]]
    assert by_vllm["items"][0]["passages"] == by_transformers["items"][0]["passages"]
    assert by_vllm["usage"]["total_tokens"] == by_transformers["usage"]["total_tokens"] > 0
    assert (by_vllm["engine"]["name"], by_transformers["engine"]["name"]) == ("vllm", "transformers")
    loaded = [frame for frame in vllm_host.frames if isinstance(frame, EngineLoaded)]
    run(vllm_host, rag("vllm"))
    assert [frame for frame in vllm_host.frames if isinstance(frame, EngineLoaded)] == loaded
    passages = run(vllm_host, rag("vllm", returns="passages"))
    assert passages["items"][0]["passages"] == by_vllm["items"][0]["passages"]
    assert "engine" not in passages
    run(vllm_host, ask("inference", "transformers", data={"type": "list", "items": ["Hello"]}))  # a third, for which the least used one leaves
    wait_until(lambda: not processes_of(vllm_host, "EngineCore"))
