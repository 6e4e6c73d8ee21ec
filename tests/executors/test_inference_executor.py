"""Answering rows with a tiny model, through a real host."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import EngineLoaded, Failed, RowsDone, RunTask, Stopped, Succeeded, Telemetry

pytestmark = pytest.mark.models

QUESTIONS = ["one fox", "two lazy dogs", "three", "four quick brown foxes jump"]
names = iter(range(10_000))


@pytest.fixture
def ask(random_model: Path, tmp_path: Path) -> Any:
    """Makes an inference task on the tiny model; `name` is new each time unless given."""

    def make(items: list[Any], name: str = "", **given: Any) -> RunTask:
        model = given.pop("model", {"source": {"type": "local", "identifier": str(random_model)}})
        spec = {"model": model, "data": {"type": "list", "items": items}}
        settings = {"max_tokens": 8, "temperature": 0, **given.pop("inference", {})}
        return task(name or f"t{next(names)}", "inference", tmp_path, **spec, inference=settings, **given)

    return make


def run(host: DrivenHost, asked: RunTask) -> dict[str, Any]:
    host.send(asked)
    return published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)


def failure(host: DrivenHost, asked: RunTask) -> Failed:
    host.send(asked)
    return host.wait_of(Failed, asked.task)


def lines_of(host: DrivenHost, name: str) -> list[str]:
    return [line for frame in host.frames if isinstance(frame, Telemetry) and frame.task == name for line in frame.lines]


def test_rows_are_answered_in_order_with_usage_and_without_touching_the_disk(warm_host: DrivenHost, ask: Any, tmp_path: Path) -> None:
    result = run(warm_host, ask([*QUESTIONS, {"prompt": "five", "metadata": {"topic": "dogs"}}]))
    assert [item["prompt"] for item in result["items"]] == [*QUESTIONS, "five"]
    assert all(item["finish_reason"] in ("stop", "length") and isinstance(item["output"], str) for item in result["items"])
    assert result["items"][4]["metadata"] == {"topic": "dogs"}
    assert result["usage"]["num_requests"] == 5
    assert result["usage"]["total_tokens"] == result["usage"]["prompt_tokens"] + result["usage"]["completion_tokens"] > 0
    assert 0 < result["metrics"]["time_to_first_token_sec"] <= result["usage"]["latency_sec"]
    assert list(tmp_path.iterdir()) == []


def test_a_batch_answers_as_each_row_alone(warm_host: DrivenHost, ask: Any) -> None:
    together = [item["output"] for item in run(warm_host, ask(QUESTIONS))["items"]]
    alone = [run(warm_host, ask([question]))["items"][0]["output"] for question in QUESTIONS]
    assert together == alone


def test_a_batch_whose_logprobs_are_asked_for_is_no_larger_than_memory_has_room_for() -> None:
    from types import SimpleNamespace

    from mloc.core.language.inference_spec import Inference
    from mloc.executors.inference import transformers_answers as engine

    words = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=150_000))))
    rows = engine._rows_with_logits(Inference(logprobs=1, max_tokens=256), words)
    assert 0.9 < rows * 256 * 150_000 * 4 / engine.LOGITS_BYTES <= 1
    assert engine._rows_with_logits(Inference(max_tokens=256), words) == engine.ROWS_PER_BATCH_ON_DEVICE


def test_a_row_that_cannot_be_answered_is_recorded_and_the_others_go_on(warm_host: DrivenHost, ask: Any) -> None:
    items = run(warm_host, ask(["one", {"no_prompt": 1}, "fox " * 300, "two"]))["items"]
    assert [item.get("error", {}).get("type") for item in items] == [None, "NoPrompt", "PromptTooLong", None]
    assert items[0]["output"] == run(warm_host, ask(["one"]))["items"][0]["output"]


def test_a_row_that_cannot_be_answered_fails_the_task_where_that_was_asked_for(warm_host: DrivenHost, ask: Any) -> None:
    assert failure(warm_host, ask(["one", {"no_prompt": 1}], inference={"on_item_error": "fail"})).error.message.startswith("row 1: ")
    assert failure(warm_host, ask([{"x": 1}, {"x": 2}, "one"], inference={"max_item_errors": 1})).error.type == "TooManyItemErrors"


def test_parts_of_text_are_one_text_and_others_are_an_error_in_their_place(warm_host: DrivenHost, ask: Any) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    said = {"type": "text", "text": "one"}
    turns = [{"role": "user", "content": [said, picture]}]
    items = run(warm_host, ask(["one", {"prompt": [said]}, [said], {"messages": turns}, {"prompt": [{"type": "audio", "audio": "/a.wav"}]}]))["items"]
    assert len({item["output"] for item in items[:3]}) == 1
    assert [item["error"]["type"] for item in items[3:]] == ["OnlyText", "OnlyText"]
    assert "holds an image" in items[3]["error"]["message"]
    assert "holds an audio" in items[4]["error"]["message"]


def test_no_rows_and_no_answers_are_no_success(warm_host: DrivenHost, ask: Any) -> None:
    assert failure(warm_host, ask([])).error.type == "NoRows"
    nothing = failure(warm_host, ask([{"x": 1}, {"x": 2}])).error
    assert (nothing.type, nothing.retryable) == ("EveryRowFailed", False)
    assert "none of 2 rows has an answer; the first: NoPrompt" in nothing.message


def test_a_shard_answers_its_range_and_keeps_the_global_index(warm_host: DrivenHost, ask: Any) -> None:
    parts = [run(warm_host, ask(QUESTIONS, f"sharded.s{i}", run_shard=(i, 3)))["items"] for i in range(3)]
    assert [(item["index"], item["prompt"]) for part in parts for item in part] == list(enumerate(QUESTIONS))


def test_rows_that_an_earlier_attempt_recorded_are_not_done_again(warm_host: DrivenHost, ask: Any) -> None:
    asked = ask(QUESTIONS, attempt=3)
    rows = Path(asked.rows_folder)
    rows.mkdir(parents=True)
    recorded = {"index": 1, "prompt": "two lazy dogs", "output": "recorded", "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    (rows / "attempt-1.jsonl").write_text(json.dumps(recorded) + '\n{"index": 2, "outp')
    (rows / "attempt-2.jsonl").write_text(json.dumps({**recorded, "output": "too late"}) + "\n")
    result = run(warm_host, asked)
    assert result["items"][1]["output"] == "recorded"
    assert result["items"][2]["output"] == run(warm_host, ask(QUESTIONS[2:3]))["items"][0]["output"]
    assert result["usage"]["completion_tokens"] >= 7


def test_a_stopped_attempt_leaves_its_rows_and_the_next_one_ends_as_a_straight_run(warm_host: DrivenHost, ask: Any) -> None:
    items = [f"fox {i}" for i in range(20_000)]  # more than any machine answers before the stop
    settings = {"max_tokens": 100, "ignore_eos": True}
    warm_host.send(ask(items, "stopped", inference=settings))
    warm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "stopped" and frame.step > 0)
    warm_host.stop("stopped")
    warm_host.wait_of(Stopped, "stopped")
    done = sum(frame.rows for frame in warm_host.frames if isinstance(frame, RowsDone) and frame.task == "stopped")
    assert 0 < done < len(items)
    some = items[: done + 40]
    resumed = run(warm_host, ask(some, "stopped", attempt=2, inference=settings))
    straight = run(warm_host, ask(some, inference=settings))
    assert any(f"{done} of {len(some)} rows are recorded by an earlier attempt" in line for line in lines_of(warm_host, "stopped"))
    assert [item["output"] for item in resumed["items"]] == [item["output"] for item in straight["items"]]
    assert resumed["usage"]["completion_tokens"] == straight["usage"]["completion_tokens"]


def test_an_answer_ends_where_the_models_context_is_full(warm_host: DrivenHost, ask: Any) -> None:
    prompts = ["Snow", "Snow is white and blood is red.", "a"]
    free = run(warm_host, ask(prompts, inference={"max_tokens": 4000, "temperature": 0, "ignore_eos": True}))["items"]
    assert [item["finish_reason"] for item in free] == ["length"] * 3
    assert {item["usage"]["prompt_tokens"] + item["usage"]["completion_tokens"] for item in free} == {256}
    alone = run(warm_host, ask(prompts[1:2], inference={"max_tokens": 4000, "temperature": 0, "ignore_eos": True}))["items"]
    assert alone[0]["output"] == free[1]["output"]
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 3}
    held = run(warm_host, ask(prompts, inference={"max_tokens": 4000, "temperature": 0, "json_schema": schema}))["items"]
    assert all(len(json.loads(item["output"])) >= 3 for item in held)
    assert max(item["usage"]["prompt_tokens"] + item["usage"]["completion_tokens"] for item in held) <= 256


def test_a_large_result_is_a_durable_file(warm_host: DrivenHost, ask: Any) -> None:
    long = "fox " * 40
    asked = ask([f"{long}{i}" for i in range(400)], inference={"max_tokens": 1})
    result = run(warm_host, asked)
    assert warm_host.wait_of(Succeeded, asked.task).files
    assert [item["index"] for item in result["items"]] == list(range(400))


def test_stop_strings_samples_and_logprobs_are_honoured(warm_host: DrivenHost, ask: Any) -> None:
    raw = {"ignore_eos": True, "skip_special_tokens": False, "allowed_token_ids": list(range(40, 60))}
    free = run(warm_host, ask(["one"], inference=raw))["items"][0]["output"]
    assert len(free) >= 8
    stop = free[4:6]
    cut = run(warm_host, ask(["one"], inference={"stop": stop, **raw}))["items"][0]
    assert cut["output"] == free[: free.index(stop)]
    assert cut["finish_reason"] == "stop"
    sampling = {"n": 3, "temperature": 1.0, "seed": 7, "logprobs": 2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "top_k": 20}
    sampled = [run(warm_host, ask(["one"], inference=sampling))["items"][0]["outputs"] for _ in range(2)]
    assert sampled[0] == sampled[1]
    assert len({output["text"] for output in sampled[0]}) > 1
    assert len(sampled[0][0]["logprobs"][0]["top"]) == 2


def test_what_a_row_draws_is_its_own_whatever_the_others_of_its_batch_are(warm_host: DrivenHost, ask: Any) -> None:
    drawn = {"temperature": 1.5, "top_p": 0.95, "min_p": 0.001, "seed": 3}
    together = run(warm_host, ask(QUESTIONS, inference=drawn))["items"]
    shards = [run(warm_host, ask(QUESTIONS, f"drawn.s{i}", run_shard=(i, 3), inference=drawn))["items"] for i in range(3)]
    assert [item["output"] for item in together] == [item["output"] for part in shards for item in part]
    same = run(warm_host, ask(["one"] * 6, inference=drawn))["items"]
    assert len({item["output"] for item in same}) > 1
    del drawn["seed"]
    by_task = [run(warm_host, ask(QUESTIONS, run_seed=seed, inference=drawn))["items"][0]["output"] for seed in (1, 1, 2)]
    assert by_task[0] == by_task[1] != by_task[2]


SCHEMA = {
    "type": "object", "required": ["name", "age", "kind", "tags"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2}, "age": {"type": "integer"}, "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}, "required": ["x"]}},
    },
}  # fmt: skip


@pytest.mark.parametrize("drawn", [{"temperature": 0}, {"temperature": 1.0}, {"temperature": 1.2, "n": 2}])
@pytest.mark.parametrize("max_tokens", [60, 90])
def test_random_weights_give_valid_json_that_ends_in_time(warm_host: DrivenHost, ask: Any, drawn: dict[str, Any], max_tokens: int) -> None:
    result = run(warm_host, ask(QUESTIONS, inference={"json_schema": SCHEMA, "max_tokens": max_tokens, **drawn}))
    for item in result["items"]:
        for output in item.get("outputs") or [{"text": item["output"]}]:
            jsonschema.validate(json.loads(output["text"]), SCHEMA)


def test_patterns_and_choices_are_kept_to(warm_host: DrivenHost, ask: Any) -> None:
    for drawn in ({"temperature": 0}, {"temperature": 1.0}):
        dates = run(warm_host, ask(QUESTIONS, inference={"regex": r"\d{4}-\d\d( at [a-z]+)?", "max_tokens": 30, **drawn}))["items"]
        assert all(re.fullmatch(r"\d{4}-\d\d( at [a-z]+)?", item["output"]) for item in dates)
        chosen = run(warm_host, ask(QUESTIONS * 3, inference={"choice": ["yes", "no (never)", "y.s"], **drawn}))["items"]
        assert {item["output"] for item in chosen} <= {"yes", "no (never)", "y.s"}
        assert {item["finish_reason"] for item in chosen} == {"stop"}


@pytest.mark.parametrize(
    ("inference", "said"),
    [
        ({"prompt_logprobs": 2, "engine": "transformers"}, "inference.prompt_logprobs: not possible with the transformers engine; leave it out"),
        ({"n": 2}, "needs sampling"),
        ({"regex": "a("}, "inference.regex is not one that answers can be held to"),
        ({"json_schema": {"type": "objct"}}, "objct"),
        ({"json_schema": "{"}, "inference.json_schema is no JSON schema"),
        ({"choice": ["a"], "ignore_eos": True}, "leave out ignore_eos"),
    ],
)
def test_a_setting_that_is_not_possible_is_refused_before_a_model_is_loaded(
    warm_host: DrivenHost, ask: Any, inference: dict[str, Any], said: str
) -> None:
    nowhere = {"source": {"type": "local", "identifier": "/no/such/model"}}
    error = failure(warm_host, ask(["one"], inference=inference, model=nowhere)).error
    assert said in error.message
    assert not error.retryable


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "names no model"),
        ({"source": {"type": "local", "identifier": "/no/such/folder"}}, "/no/such/folder is not on the worker's disk"),
        ({"source": {"type": "huggingface", "identifier": "nobody/nothing"}}, "HF_HUB_OFFLINE is set"),
        ({"source": {"type": "stage", "identifier": "train"}}, "no stage or task 'train'"),
        ({"source": {"type": "scratch", "tokenizer_text": ["a"]}, "adapters": [{"path": "/no/adapter"}]}, "a scratch model has none of them"),
    ],
)
def test_a_model_that_is_not_there_is_named(warm_host: DrivenHost, model: dict[str, Any], said: str) -> None:
    error = failure(warm_host, task(f"t{next(names)}", "inference", model=model, data={"type": "list", "items": ["one"]})).error
    assert said in error.message
    assert not error.retryable


def test_a_model_stays_warm_until_two_others_were_used(warm_host: DrivenHost, ask: Any, random_model: Path, tmp_path: Path) -> None:
    def engines() -> list[tuple[str, bool]]:
        return [(frame.engine.split("@")[0], frame.loaded) for frame in warm_host.frames if isinstance(frame, EngineLoaded)]

    copies = [str(shutil.copytree(random_model, tmp_path / name)) for name in ("a", "b", "c")]

    def use(folder: str) -> None:
        spec = {"model": {"source": {"type": "local", "identifier": folder}}, "data": {"type": "list", "items": ["one"]}}
        run(warm_host, task(f"t{next(names)}", "inference", **spec, inference={"max_tokens": 2}))

    before = len(engines())
    for folder in (copies[0], copies[0], copies[1], copies[0], copies[2]):
        use(folder)
    loads = [(Path(name).name, loaded) for name, loaded in engines()[before:]]
    assert [entry for entry in loads if entry[1]] == [("a", True), ("b", True), ("c", True)]
    assert loads[-2:] == [("b", False), ("c", True)]
