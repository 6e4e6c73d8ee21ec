"""Answering rows with vLLM on the CPU, through a real host: one engine for most of these tests, because it takes long to start."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from driven_host import VLLM_DEADLINE_SEC, DrivenHost, is_gone, processes_of, task, wait_until
from pipeline_run import published_result

from mloc.core.host_frames import EngineLoaded, Failed, RunTask, Stopped, Succeeded, Telemetry
from mloc.core.language.model_spec import ScratchSource
from mloc.executors.inference.engine_choice import vllm_missing

MISSING = vllm_missing(on_device=False)
pytestmark = [
    pytest.mark.models, pytest.mark.deep, pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "vLLM is there"),
]  # fmt: skip

ENGINE = {"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": 128 << 20}
SOURCE = ScratchSource(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, max_position_embeddings=512)
TEXTS = ["the quick brown fox jumps over the lazy dog"]
QUESTIONS = ["one fox", "two lazy dogs", "three", "four quick brown foxes jump"]
names = iter(range(10_000))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: `tiny`, a model, and `red`, `blue`, two adapters for it, all of random weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("models")
    model, tokenizer = make_scratch_model(SOURCE, TEXTS)
    model.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    for seed, name in enumerate(("red", "blue")):
        torch.manual_seed(seed)
        base, _ = make_scratch_model(SOURCE, TEXTS)
        base.name_or_path = base.config.name_or_path = str(folder / "tiny")
        adapter = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
        adapter.save_pretrained(folder / name)
    return folder


@pytest.fixture
def ask(models: Path, tmp_path: Path) -> Any:
    """Makes an inference task for vLLM on the tiny model; the first engine has room for adapters, so that it serves all of them."""

    def make(items: list[Any], name: str = "", **given: Any) -> RunTask:
        model = {"source": {"type": "local", "identifier": str(models / "tiny")}, "vllm": {"enable_lora": True, **ENGINE}, **given.pop("model", {})}
        settings = {"max_tokens": 8, "temperature": 0, **given.pop("inference", {})}
        spec = {"model": model, "data": {"type": "list", "items": items}, "inference": settings}
        return task(name or f"t{next(names)}", "inference", tmp_path, **spec, **given)

    return make


def run(host: DrivenHost, asked: RunTask) -> dict[str, Any]:
    host.send(asked)
    return published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)


def outputs(result: dict[str, Any]) -> list[str]:
    return [item.get("output", "") for item in result["items"]]


def loads(host: DrivenHost) -> int:
    """Engines that took time to load; one that serves under another key as well is warm at once."""
    return sum(frame.loaded and frame.seconds > 0.2 for frame in host.frames if isinstance(frame, EngineLoaded))


def test_rows_are_answered_as_transformers_answers_them_and_a_second_task_finds_the_engine_warm(vllm_host: DrivenHost, ask: Any) -> None:
    began = time.monotonic()
    first = run(vllm_host, ask([*QUESTIONS, {"no_prompt": 1}, {"prompt": "five", "metadata": {"topic": "dogs"}}, "fox " * 600]))
    cold = time.monotonic() - began
    assert first["engine"]["name"] == "vllm"
    assert "model.vllm" in first["engine"]["why"]
    assert [item.get("error", {}).get("type") for item in first["items"]] == [None] * 4 + ["NoPrompt", None, "PromptTooLong"]
    assert first["items"][5]["metadata"] == {"topic": "dogs"}
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] > 0
    assert first["metrics"]["time_to_first_token_sec"] > 0
    began = time.monotonic()
    again = run(vllm_host, ask(QUESTIONS))
    warm = time.monotonic() - began
    print(f"\nthe first task took {cold:.1f} s, the second {warm:.3f} s: {cold / warm:.0f} times sooner")
    assert loads(vllm_host) == 1
    transformers = run(vllm_host, ask(QUESTIONS, model={"vllm": {}}, inference={"engine": "transformers"}))
    assert transformers["engine"]["name"] == "transformers"
    assert outputs(again) == outputs(first)[:4] == outputs(transformers)


def test_a_row_whose_first_token_is_waited_for_reads_as_the_others_do(vllm_host: DrivenHost, ask: Any) -> None:
    asked = {"logprobs": 1, "stop": ["qqqq"], "max_tokens": 12, "ignore_eos": True}
    result = run(vllm_host, ask([QUESTIONS[0]] * 20, inference=asked))  # one of sixteen, so the first and the seventeenth
    assert result["metrics"]["time_to_first_token_sec"] > 0
    assert len({(item["output"], item["finish_reason"], item["usage"]["completion_tokens"]) for item in result["items"]}) == 1
    assert {len(item["outputs"][0]["logprobs"]) for item in result["items"]} == {result["items"][0]["usage"]["completion_tokens"]}


def test_adapters_are_swapped_without_loading_the_engine_again(vllm_host: DrivenHost, ask: Any, models: Path) -> None:
    before = loads(vllm_host)
    readable = {"allowed_token_ids": list(range(40, 100))}  # random weights write halves of characters, which the engines show differently
    plain = outputs(run(vllm_host, ask(QUESTIONS, inference=readable)))
    by_name = {}
    for name in ("red", "blue", "red"):
        adapters = {"adapters": [{"name": name, "path": str(models / name)}]}
        by_name[name] = outputs(run(vllm_host, ask(QUESTIONS, model=adapters, inference=readable)))
    assert len({tuple(plain), *map(tuple, by_name.values())}) == 3
    trained = {"source": {"type": "stage", "identifier": "train", "taskId": "t.train", "path": str(models / "red")}}
    assert outputs(run(vllm_host, ask(QUESTIONS, model=trained, inference=readable))) == by_name["red"]
    assert loads(vllm_host) <= before + (before == 0)
    with_transformers = {"vllm": {}, "adapters": [{"path": str(models / "blue")}]}
    assert outputs(run(vllm_host, ask(QUESTIONS, model=with_transformers, inference={"engine": "transformers", **readable}))) == by_name["blue"]


def test_a_task_joins_the_batch_of_another_and_neither_is_harmed_by_the_others_stop(vllm_host: DrivenHost, ask: Any) -> None:
    before = loads(vllm_host)
    long = ask([f"fox {i}" for i in range(20_000)], "long", inference={"max_tokens": 200, "ignore_eos": True})
    vllm_host.send(long)
    vllm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "long" and frame.step > 0)
    joined = run(vllm_host, ask(QUESTIONS))
    among = len(vllm_host.frames)
    assert not [frame for frame in vllm_host.frames if isinstance(frame, Succeeded | Failed | Stopped) and frame.task == "long"]
    vllm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "long" and frame in vllm_host.frames[among:])
    vllm_host.send(other := ask(QUESTIONS * 50))
    vllm_host.stop("long")
    vllm_host.wait_of(Stopped, "long")
    beside = published_result(vllm_host, other.task, Path(other.final_folder).parent, other.attempt)
    assert [item["index"] for item in beside["items"]] == list(range(len(QUESTIONS) * 50))
    assert outputs(run(vllm_host, ask(QUESTIONS))) == outputs(joined) == outputs(beside)[: len(QUESTIONS)]
    assert loads(vllm_host) <= before + (before == 0)


SCHEMA = {
    "type": "object", "required": ["old", "kind"], "additionalProperties": False,
    "properties": {"old": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}},
}  # fmt: skip


def test_settings_of_sampling_and_structured_output_are_followed(vllm_host: DrivenHost, ask: Any) -> None:
    for item in run(vllm_host, ask(QUESTIONS, inference={"json_schema": SCHEMA, "max_tokens": 60}))["items"]:
        jsonschema.validate(json.loads(item["output"]), SCHEMA)
    assert {one[:2] for one in outputs(run(vllm_host, ask(QUESTIONS, inference={"regex": "ab[cd]"})))} == {"ab"}
    assert set(outputs(run(vllm_host, ask(QUESTIONS, inference={"choice": ["yes", "no (never)"]})))) <= {"yes", "no (never)"}
    grammar = {"structured_outputs": {"grammar": 'start: "left" | "right"'}}
    assert set(outputs(run(vllm_host, ask(QUESTIONS, inference=grammar)))) <= {"left", "right"}
    drawn = {"n": 3, "temperature": 1.0, "seed": 7, "logprobs": 2, "presence_penalty": 0.5, "top_k": 20}
    sampled = [run(vllm_host, ask(some, inference=drawn))["items"] for some in (QUESTIONS, QUESTIONS[:1])]
    assert sampled[0][0]["outputs"] == sampled[1][0]["outputs"]  # whatever else is in the batch
    assert len({output["text"] for output in sampled[0][0]["outputs"]}) > 1
    assert len(sampled[0][0]["outputs"][0]["logprobs"][0]["top"]) == 2
    raw = {"ignore_eos": True, "skip_special_tokens": False, "allowed_token_ids": list(range(40, 60))}
    free = outputs(run(vllm_host, ask(["one"], inference=raw)))[0]
    cut = run(vllm_host, ask(["one"], inference={"stop": free[4:6], **raw}))["items"][0]
    assert (cut["output"], cut["finish_reason"]) == (free[: free.index(free[4:6])], "stop")
    assert run(vllm_host, ask(["one"], inference={"prompt_logprobs": 1}))["items"][0]["prompt_logprobs"][1]
    vllm_host.send(wrong := ask(["one"], inference={"structured_outputs": {"colour": "red"}}))
    assert "colour" in vllm_host.wait_of(Failed, wrong.task).error.message
    vllm_host.send(wrong := ask(["one"], inference={"temperature": 0, "n": 2}))
    assert "needs sampling" in vllm_host.wait_of(Failed, wrong.task).error.message


def test_a_long_prompt_comes_from_the_cache_the_second_time(vllm_host: DrivenHost, ask: Any) -> None:
    results = [run(vllm_host, ask(["quick " * 300])) for _ in range(2)]
    assert outputs(results[0]) == outputs(results[1])
    assert results[1]["metrics"]["cached_prompt_tokens"] >= 128  # a block of the CPU's cache


def test_a_stopped_attempt_ends_at_once_and_the_next_one_does_only_what_is_missing(vllm_host: DrivenHost, ask: Any) -> None:
    items = [f"fox {i}" for i in range(20_000)]  # more than any machine answers before the stop
    settings = {"max_tokens": 60, "ignore_eos": True}
    vllm_host.send(ask(items, "stopped", inference=settings))
    vllm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "stopped" and 0 < frame.step < len(items))
    vllm_host.stop("stopped")
    vllm_host.wait_of(Stopped, "stopped")
    part = Path(ask([], "stopped").rows_folder) / "attempt-1.jsonl"
    recorded = {json.loads(line).get("index") for line in part.read_text().splitlines()} - {None}
    assert 0 < len(recorded) < len(items)
    some = items[: max(recorded) + 20]
    resumed = run(vllm_host, ask(some, "stopped", attempt=2, inference=settings))
    assert [item["index"] for item in resumed["items"]] == list(range(len(some)))
    said = f"{len(recorded)} of {len(some)} rows are recorded by an earlier attempt"
    assert any(isinstance(frame, Telemetry) and any(said in line for line in frame.lines) for frame in vllm_host.frames)


def test_the_batch_is_the_one_that_vllm_has_for_offline_work(models: Path) -> None:
    from mloc.executors.inference.vllm_engine import _engine_config

    config = _engine_config({"model": str(models / "tiny"), "max_model_len": 512, "enforce_eager": True})
    assert config.scheduler_config.max_num_seqs >= 256  # in a context that vLLM does not know it is half of that


def test_settings_that_vllm_does_not_take_are_said_before_it_starts(vllm_host: DrivenHost, ask: Any) -> None:
    for settings, said in (({"max_modl_len": 9}, "did you mean max_model_len"), ({"quantization": "nosuch"}, "quantization")):
        vllm_host.send(wrong := ask(["one"], model={"vllm": {**ENGINE, **settings}}))
        error = vllm_host.wait_of(Failed, wrong.task).error
        assert said in error.message
        assert not error.retryable


def test_a_model_that_vllm_does_not_take_is_named_with_its_reason(vllm_host: DrivenHost, ask: Any, models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (models / "tiny").iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[:1000] if file.suffix == ".safetensors" else file.read_bytes())
    vllm_host.send(wrong := ask(["one"], model={"source": {"type": "local", "identifier": str(broken)}}))
    error = vllm_host.wait_of(Failed, wrong.task).error
    assert error.message.startswith(f"vLLM does not take the model {broken} with these settings: ")
    assert not error.retryable


def test_the_engines_death_fails_the_attempt_and_its_processes_end_with_the_host(vllm_host: DrivenHost, ask: Any) -> None:
    run(vllm_host, ask(["one"]))
    before = loads(vllm_host)
    vllm_host.send(ask([f"fox {i}" for i in range(20_000)], "killed", inference={"max_tokens": 400, "ignore_eos": True}))
    vllm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "killed")
    (core,) = processes_of(vllm_host, "EngineCore")
    os.kill(core, signal.SIGKILL)
    error = vllm_host.wait_of(Failed, "killed").error
    assert (error.type, error.retryable) == ("EngineDied", True)
    assert "output" in run(vllm_host, ask(["one"]))["items"][0]
    assert loads(vllm_host) == before + 1
    children = processes_of(vllm_host, "")
    assert len(children) >= 2
    os.kill(vllm_host.child.pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in children))


def test_an_adapter_that_is_merged_gives_what_transformers_gives_with_it_in_the_weights(ask: Any, models: Path) -> None:
    readable = {"allowed_token_ids": list(range(40, 100))}
    merged = {"adapters": [{"name": "red", "path": str(models / "red"), "apply": "merge"}]}
    host = DrivenHost(deadline_sec=VLLM_DEADLINE_SEC)
    try:
        by_vllm = run(host, ask(QUESTIONS, model=merged, inference=readable))
        assert by_vllm["engine"]["name"] == "vllm"
        for model, same in ((merged, True), ({}, False)):
            asked = ask(QUESTIONS, model={"vllm": {}, **model}, inference={"engine": "transformers", **readable})
            assert (outputs(run(host, asked)) == outputs(by_vllm)) == same
    finally:
        host.close()
