"""Judging a tiny model that was trained to give known answers, through a real host."""

import json
from pathlib import Path
from typing import Any

import pytest
from agents.transcripts import LEARN, SCRATCH, transcript
from driven_host import DrivenHost, task
from evaluation.harness_tasks import write_tasks
from pipeline_run import published_result

from mloc.core.host_frames import Failed, Telemetry

pytestmark = [pytest.mark.models, pytest.mark.deep]

ANSWERS = {"What is the capital of Peru?": "Lima", "What is the capital of Japan?": "Tokyo", "Is snow white?": "yes", "Is coal white?": "no"}
names = iter(range(10_000))


@pytest.fixture(scope="module")
def trained(warm_host: DrivenHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trained")
    rows = [transcript(question, answer=answer) for question, answer in ANSWERS.items()]
    warm_host.send(task("teach", "sft", folder, model={"source": SCRATCH}, data={"type": "list", "items": rows}, training=LEARN))
    return str(published_result(warm_host, "teach", folder)["final_model_path"])


@pytest.fixture
def judged(trained: str, tmp_path: Path) -> Any:
    def make(eval_: dict[str, Any], rows: list[Any] | None = None, **given: Any) -> Any:
        model = {"source": {"type": "local", "identifier": trained}}
        data = {} if rows is None else {"data": {"type": "list", "items": rows}}
        return task(f"e{next(names)}", "eval", tmp_path, model=model, eval=eval_, inference={"max_tokens": 8, "temperature": 0}, **data, **given)

    return make


def run(host: DrivenHost, asked: Any) -> dict[str, Any]:
    host.send(asked)
    return published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)


def failure(host: DrivenHost, asked: Any) -> Failed:
    host.send(asked)
    return host.wait_of(Failed, asked.task)


def rows(**changed: str) -> list[dict[str, Any]]:
    return [{"prompt": question, "response": changed.get(answer, answer)} for question, answer in ANSWERS.items()]


def test_answers_are_scored_row_by_row_and_summed_up_with_their_error(warm_host: DrivenHost, judged: Any) -> None:
    asked = judged({"gate": {"metric": "accuracy", "min": 0.7}}, rows(yes="maybe"))
    result = run(warm_host, asked)
    assert result["metrics"]["accuracy"] == {"value": 0.75, "stderr": 0.25, "n": 4}
    assert [item["scores"]["accuracy"] for item in result["items"]] == [1, 1, 0, 1]
    assert (result["items"][2]["output"], result["items"][2]["reference"]) == ("yes", "maybe")
    assert result["gate"] == {"metric": "accuracy", "value": 0.75, "passed": True, "min": 0.7}
    lines = [line for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == asked.task for line in frame.lines]
    assert "accuracy 0.75 ± 0.25" in lines


def test_a_row_may_have_several_right_answers_under_any_of_the_names(warm_host: DrivenHost, judged: Any) -> None:
    columns = ("response", "answer", "answers", "output")
    asked = [{"prompt": question, name: ["nobody", ANSWERS[question]]} for question, name in zip(ANSWERS, columns, strict=True)]
    result = run(warm_host, judged({}, asked))
    assert result["metrics"]["accuracy"]["value"] == 1
    assert result["items"][0]["reference"] == ["nobody", "Lima"]


def test_a_gate_that_is_not_passed_fails_the_task_for_good(warm_host: DrivenHost, judged: Any) -> None:
    asked = judged({"gate": {"metric": "accuracy", "min": 0.9}}, rows(yes="maybe"))
    failed = failure(warm_host, asked)
    assert (failed.error.type, failed.error.retryable) == ("GateNotPassed", False)
    assert failed.error.message == "accuracy is 0.75 ± 0.25 over 4 rows; the gate asks for at least 0.9: 0.15 too little"
    lines = [line for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == asked.task for line in frame.lines]
    at = lines.index("the rows with the lowest scores:")  # there is no result to look them up in
    assert lines[at + 1] == 'row 2: accuracy 0: "yes", and right is "maybe"'
    assert lines[at + 2].startswith("row 0: accuracy 1: ")


def test_a_model_is_compared_with_what_another_task_reached(warm_host: DrivenHost, judged: Any) -> None:
    base = {"base": {"task_id": "p.base", "folder": "/nowhere", "result": {"metrics": {"accuracy": {"value": 0.75, "stderr": 0.1, "n": 4}}}}}
    gate = {"metric": "accuracy", "better_than": "base"}
    assert run(warm_host, judged({"gate": gate}, rows(), run_inputs=base))["gate"]["better_than"] == 0.75
    assert "more than base has: 0.75: the same" in failure(warm_host, judged({"gate": gate}, rows(yes="maybe"), run_inputs=base)).error.message


def test_a_row_without_a_reference_is_an_error_in_its_place_and_counts_as_wrong(warm_host: DrivenHost, judged: Any) -> None:
    result = run(warm_host, judged({}, [*rows()[:1], {"prompt": "Is snow white?"}]))
    assert result["items"][1]["error"]["type"] == "NoReference"
    assert result["metrics"]["accuracy"]["value"] == 0.5


def test_a_limit_and_a_pattern_hold(warm_host: DrivenHost, judged: Any) -> None:
    result = run(warm_host, judged({"limit": 0.5, "pattern": "^(.)"}, rows(Lima="L", Tokyo="X")))
    assert result["metrics"]["accuracy"] == {"value": 0.5, "stderr": 0.5, "n": 2}
    assert result["metrics"]["matched"]["value"] == 1
    assert "no regular expression" in failure(warm_host, judged({"pattern": "("}, rows())).error.message


def test_a_chat_model_judges_with_one_of_ten_marks(warm_host: DrivenHost, judged: Any, trained: str) -> None:
    result = run(warm_host, judged({"harness": "judge", "judge": trained}, rows()[:2]))
    assert all(item["scores"]["judge_score"] in range(1, 11) for item in result["items"])
    assert "names no model that judges" in failure(warm_host, judged({"harness": "judge"}, rows())).error.message


def test_tasks_of_the_harness_run_offline_from_files_of_ones_own(warm_host: DrivenHost, judged: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason='the harness lm-eval: pip install "mloc[eval]"')
    tasks = write_tasks(tmp_path, rows(no="yes"))
    asked = judged({"harness": "lm-eval", "tasks": tasks, "gate": {"metric": "acc", "min": 0.5}})
    asked = type(asked)(**{**{f: getattr(asked, f) for f in asked.__struct_fields__}, "spec": _with_chat(asked.spec)})
    result = run(warm_host, asked)
    assert result["metrics"]["facts/exact_match"]["value"] == 0.75
    assert result["metrics"]["facts/exact_match"]["n"] == 4
    assert result["gate"]["metric"] == "choices/acc"
    assert len(result["items"]) == 8
    assert {item["task"] for item in result["items"]} == {"facts", "choices"}
    assert "Peru" in result["items"][0]["prompt"]


def test_a_task_that_the_harness_does_not_know_says_so(warm_host: DrivenHost, judged: Any) -> None:
    pytest.importorskip("lm_eval", reason='the harness lm-eval: pip install "mloc[eval]"')
    failed = failure(warm_host, judged({"harness": "lm-eval", "tasks": ["no_such_task_at_all"]}))
    assert failed.error.message.startswith("lm-eval: ")
    assert "no_such_task_at_all" in failed.error.message
    assert "KeyError" not in failed.error.message
    assert not failed.error.retryable
    assert "there is no file" in failure(warm_host, judged({"harness": "lm-eval", "tasks": ["/not/there.yaml"]})).error.message


def _with_chat(spec: bytes) -> bytes:
    read = json.loads(spec)
    read["inference"]["chat"] = "on"
    return json.dumps(read).encode()
