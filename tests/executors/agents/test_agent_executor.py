"""Agents on a tiny model that was trained to call tools, through a real host."""

import os
from pathlib import Path
from typing import Any

import pytest
from agents.transcripts import LEARN, SCRATCH, transcript
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import Failed, Stopped, Telemetry

pytest.importorskip("langchain", reason='agents need langchain: pip install "mloc[agent]"')
pytestmark = [pytest.mark.models, pytest.mark.deep]

TAUGHT = [
    transcript("What is 17 times 23?", ("python_repl", {"code": "17 * 23"}, "391"), answer="It is 391."),
    transcript("Who leaves a note?", ("write_file", {"path": "note.txt", "text": "Lima"}, "4 bytes written to note.txt"), answer="I do."),
    transcript("Hello", answer="Hello to you."),
    transcript("Which tool is it?", ("no_tool", {"a": 1}, "error"), answer="There is none."),
]
names = iter(range(10_000))


@pytest.fixture(scope="module")
def trained(warm_host: DrivenHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the trained model."""
    folder = tmp_path_factory.mktemp("trained")
    warm_host.send(task("teach", "sft", folder, model={"source": SCRATCH}, data={"type": "list", "items": TAUGHT}, training=LEARN))
    return str(published_result(warm_host, "teach", folder)["final_model_path"])


@pytest.fixture
def agent(trained: str, tmp_path: Path) -> Any:
    def make(settings: dict[str, Any], **given: Any) -> Any:
        model = {"source": {"type": "local", "identifier": trained}}
        inference = {"max_tokens": 60, "temperature": 0}
        return task(f"a{next(names)}", "agent", tmp_path, model=model, agent=settings, **{"inference": inference, **given})

    return make


def run(host: DrivenHost, asked: Any) -> dict[str, Any]:
    host.send(asked)
    return published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)


def failure(host: DrivenHost, asked: Any) -> Failed:
    host.send(asked)
    return host.wait_of(Failed, asked.task)


def lines(host: DrivenHost, task: str) -> list[str]:
    return [line for frame in host.frames if isinstance(frame, Telemetry) and frame.task == task for line in frame.lines]


def test_an_agent_calls_its_tool_and_answers_and_every_step_is_in_the_result_and_in_the_log(warm_host: DrivenHost, agent: Any) -> None:
    asked = agent({"task": "What is 17 times 23?", "tools": ["python_repl"]})
    result = run(warm_host, asked)
    assert result["output"] == "It is 391."
    call, answer = result["steps"]
    assert (call["tool"], call["input"], call["observation"]) == ("python_repl", {"code": "17 * 23"}, "391")
    assert answer["answer"] == "It is 391."
    assert result["items"][0]["steps"] == result["steps"]
    assert result["usage"]["completion_tokens"] > 0
    said = lines(warm_host, asked.task)
    assert said[2:5] == ['call python_repl: {"code": "17 * 23"}', "observation: 391", "answer: It is 391."]


def test_rows_are_questions_and_one_without_an_answer_is_an_error_in_its_place_with_its_steps(warm_host: DrivenHost, agent: Any) -> None:
    rows = ["Hello", "What is 17 times 23?", "Who leaves a note?"]
    result = run(warm_host, agent({"tools": ["python_repl", "files"], "max_steps": 1}, data={"type": "list", "items": rows}))
    first, second, third = result["items"]
    assert first["output"] == "Hello to you."
    assert second["error"]["type"] == third["error"]["type"] == "StepLimit"
    assert second["steps"][0]["observation"] == "391"
    assert "steps" not in result


def test_what_the_agent_writes_is_part_of_the_result(warm_host: DrivenHost, agent: Any, tmp_path: Path) -> None:
    asked = agent({"task": "Who leaves a note?", "tools": [{"files": {"content": {"old.txt": "there"}}}]})
    run(warm_host, asked)
    workspace = tmp_path / asked.task / "artifacts" / "workspace" / "0"
    assert sorted(os.listdir(workspace)) == ["note.txt", "old.txt"]
    assert (workspace / "note.txt").read_text() == "Lima"


def test_a_tool_that_is_not_there_is_something_to_see_for_the_model(warm_host: DrivenHost, agent: Any) -> None:
    result = run(warm_host, agent({"task": "Which tool is it?", "tools": ["python_repl"]}))
    assert "no_tool is not a valid tool" in result["steps"][0]["observation"]


def test_limits_on_time_and_tokens_end_a_question(warm_host: DrivenHost, agent: Any) -> None:
    late = failure(warm_host, agent({"task": "What is 17 times 23?", "tools": ["python_repl"], "timeout": 0.001}))
    assert (late.error.type, late.error.retryable) == ("EveryRowFailed", False)
    assert "TimeLimit: no answer after 0.001 s" in late.error.message
    long = failure(warm_host, agent({"task": "What is 17 times 23?", "tools": ["python_repl"], "max_total_tokens": 10}))
    assert "TokenLimit" in long.error.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tools": ["python_rep"]}, "did you mean 'python_repl'"),
        ({"tools": [{"python_repl": {"memori": 1}}]}, "its options are timeout, memory"),
        ({"tools": [{"python_repl": {"memory": "lots"}}]}, "python_repl"),
        ({"max_step": 3}, "did you mean 'max_steps'"),
        ({"type": "swarm"}, "accepted: react"),
        ({"max_steps": 0}, "a number above 0"),
        ({"config_name": "no/such/file"}, "there is no file no/such/file"),
    ],
)
def test_what_means_nothing_is_said_before_a_model_is_loaded(warm_host: DrivenHost, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    source = {"source": {"type": "local", "identifier": "/not/there"}}
    failed = failure(warm_host, task(f"a{next(names)}", "agent", tmp_path, model=source, agent={"task": "x", **settings}))
    assert said in failed.error.message
    assert not failed.error.retryable


def test_settings_may_come_from_a_file_and_those_of_the_task_go_first(warm_host: DrivenHost, agent: Any, tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text("agent:\n  tools: [python_repl]\n  task: Hello\n  max_iterations: 1\n")
    result = run(warm_host, agent({"config_name": str(tmp_path / "sums"), "task": "What is 17 times 23?", "max_steps": 5}))
    assert result["output"] == "It is 391."


def test_a_retried_attempt_asks_only_what_has_no_answer_yet(warm_host: DrivenHost, agent: Any, tmp_path: Path) -> None:
    rows = ["Hello", "What is 17 times 23?"]
    asked = agent({"tools": ["python_repl"]}, data={"type": "list", "items": rows})
    folder = Path(asked.rows_folder)
    folder.mkdir(parents=True)
    (folder / "attempt-0.jsonl").write_text('{"index":0,"output":"from before","steps":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n')
    items = run(warm_host, asked)["items"]
    assert [item["output"] for item in items] == ["from before", "It is 391."]


def test_a_stop_leaves_the_question_for_the_next_attempt(warm_host: DrivenHost, agent: Any) -> None:
    transcripts = [{"role": "user", "content": "What is 17 times 23?"}]
    asked = agent({"tools": ["python_repl"]}, data={"type": "list", "items": [{"messages": transcripts}] * 20_000})
    warm_host.send(asked)
    warm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == asked.task and any("391" in line for line in frame.lines))
    warm_host.stop(asked.task)
    assert isinstance(warm_host.wait_of(Stopped, asked.task), Stopped)
