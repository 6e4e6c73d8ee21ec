"""A task's settings in vLLM's words, and which engine it gets; none of this needs vLLM."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mloc.core.language.inference_spec import Inference, names_for_vllm
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.core.needs.engine_wish import wish_of
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.inference import engine_choice, vllm_model
from mloc.executors.inference.adapter_room import takes_adapters
from mloc.executors.inference.vllm_model import is_quantized
from mloc.executors.inference.vllm_settings import (
    engine_arguments,
    identity,
    lora_ranks,
    row_seed,
    sampling_arguments,
    structured_arguments,
)


def spec(task_type: str = "inference", **given: Any) -> TaskSpec:
    return decode_spec(msgspec.json.encode({"taskType": task_type, **given}))


def place(*devices: int) -> Context:
    folder = Path("/tmp")
    return Context(folder, folder, folder, {}, devices, None, None, 0, lambda: False, lambda _: None)


def on_gpus(count: int, memory: int | None = None, **vllm: Any) -> dict[str, Any]:
    gpu = {"count": count, **({"memory": memory} if memory else {})}
    return engine_arguments(spec(model={"vllm": vllm}, resources={"hardware": {"gpu": gpu}}), place(*range(count)), 80 << 30)


def test_every_setting_of_inference_reaches_the_engine_or_is_ours_to_follow() -> None:
    # given every parameter that only vLLM follows
    given = {name: True for name in names_for_vllm() if name not in ("structured_outputs", "repetition_detection", "output_kind")}
    # then each is handed over under its own name
    inference = Inference(**given)
    assert given.items() <= sampling_arguments(inference, {}).items()
    assert structured_arguments(Inference(structured_outputs={"regex": "a"})) == {"regex": "a"}


def test_what_a_task_leaves_unset_is_as_the_models_own_settings_have_it() -> None:
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "pad_token_id": 3}
    drawn = sampling_arguments(Inference(top_p=0.5), own)
    assert (drawn["temperature"], drawn["top_p"], drawn["top_k"], drawn["repetition_penalty"]) == (0.6, 0.5, 40, 1.1)
    assert "pad_token_id" not in drawn
    assert sampling_arguments(Inference(), {})["temperature"] == 0.0  # as with transformers: the likeliest
    assert sampling_arguments(Inference(do_sample=False, temperature=0.7), own)["temperature"] == 0.0
    assert sampling_arguments(Inference(do_sample=True), {})["temperature"] == 1.0


def test_forms_that_vllm_wants_otherwise_are_rewritten() -> None:
    made = sampling_arguments(Inference(stop="END", logit_bias={"7": 1.5}, top_k=-1, bad_words=("no",), n=3, choice=("a", "x" * 400)), {})
    assert (made["stop"], made["logit_bias"], made["top_k"], made["bad_words"], made["n"]) == (["END"], {7: 1.5}, 0, ["no"], 3)
    assert made["max_tokens"] > 400  # the longest choice fits
    assert structured_arguments(Inference(choice=("a", "b"))) == {"choice": ["a", "b"]}
    assert structured_arguments(Inference(json_schema={"type": "object"}))["json"] == {"type": "object"}  # type: ignore[index]
    assert structured_arguments(Inference()) is None


def test_rows_draw_by_their_own_seed() -> None:
    assert len({row_seed(seed, row) for seed in range(3) for row in range(100)}) == 300
    assert row_seed(1, 2) == row_seed(1, 2) < 2**32


def test_prefix_caching_is_on_and_the_cpu_does_not_take_all_memory() -> None:
    made = engine_arguments(spec(), place())
    assert made["enable_prefix_caching"]
    assert made["kv_cache_memory_bytes"] == 1 << 30
    assert "dtype" not in made  # float32, unless the weights are quantized
    own = engine_arguments(spec(model={"vllm": {"gpu_memory_utilization": 0.3, "enable_prefix_caching": False, "dtype": "bfloat16"}}), place())
    assert "kv_cache_memory_bytes" not in own
    assert (own["enable_prefix_caching"], own["dtype"], own["gpu_memory_utilization"]) == (False, "bfloat16", 0.3)


def test_an_engine_spans_the_devices_that_the_task_was_given() -> None:
    assert on_gpus(2)["tensor_parallel_size"] == 2
    assert on_gpus(4, pipeline_parallel_size=2)["tensor_parallel_size"] == 2
    assert on_gpus(2, data_parallel_size=2)["tensor_parallel_size"] == 1
    assert on_gpus(8, data_parallel_size=2, pipeline_parallel_size=2)["tensor_parallel_size"] == 2
    with pytest.raises(ExecutorError, match=r"asks for 6 devices \(tensor_parallel_size 2, pipeline_parallel_size 1, data_parallel_size 3\)"):
        on_gpus(2, data_parallel_size=3, tensor_parallel_size=2)
    assert on_gpus(1, memory=20 << 30)["gpu_memory_utilization"] == 0.25
    assert on_gpus(1, memory=80 << 30)["gpu_memory_utilization"] == 0.9
    assert "gpu_memory_utilization" not in on_gpus(1)
    beside = engine_arguments(spec(resources={"hardware": {"gpu": {"count": 1}}}), place(0), 80 << 30, 8 << 30)
    assert beside["gpu_memory_utilization"] == 0.8  # an embedding model has the rest
    with pytest.raises(ExecutorError, match=r"set resources\.hardware\.gpu\.count to 4"):
        on_gpus(1, tensor_parallel_size=4)


def test_quantization_of_the_models_config_is_asked_of_vllm() -> None:
    assert engine_arguments(spec(model={"config": {"load_in_4bit": True, "bf16": True}}), place())["quantization"] == "bitsandbytes"
    assert engine_arguments(spec(model={"config": {"load_in_8bit": True}}), place())["quantization"] == "int8_per_channel_weight_only"


def test_workers_on_the_cpu_share_what_one_would_have_of_the_memory() -> None:
    made = engine_arguments(spec(model={"vllm": {"tensor_parallel_size": 2}}), place())
    assert (made["tensor_parallel_size"], made["kv_cache_memory_bytes"]) == (2, 1 << 29)
    with pytest.raises(ExecutorError, match=r"pipeline_parallel_size.*use tensor_parallel_size"):
        engine_arguments(spec(model={"vllm": {"pipeline_parallel_size": 2}}), place())


def test_weights_that_are_quantized_are_seen_before_the_engine_starts(tmp_path: Path) -> None:
    def precision(**config: Any) -> bool:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        return is_quantized(str(tmp_path), None)

    assert not precision()
    assert precision(quantization_config={"quant_method": "awq"})
    assert precision(text_config={"quantization_config": {"quant_method": "gptq"}})
    assert not is_quantized(str(tmp_path / "nothing"), None)


def test_an_engine_with_room_for_adapters_serves_smaller_ones_and_none() -> None:
    assert lora_ranks(0, {})[:2] == (0, 16)
    assert lora_ranks(8, {})[0] == 16
    assert lora_ranks(48, {})[0] == 64
    assert lora_ranks(8, {"max_lora_rank": 32}) == (32,)
    assert lora_ranks(0, {"enable_lora": False}) == (0,)
    for needed, given in ((64, {"max_lora_rank": 32}), (1024, {})):
        with pytest.raises(ExecutorError, match=f"rank {needed}"):
            lora_ranks(needed, given)
    assert identity("/m", None, {"a": 1, "b": 2}, 16) == identity("/m", None, {"b": 2, "a": 1}, 16) != identity("/m", None, {"a": 1}, 16)


def test_an_adapter_on_an_engine_that_is_to_take_none_is_refused() -> None:
    with pytest.raises(ExecutorError, match="enable_lora is false"):
        lora_ranks(8, {"enable_lora": False})


class Model:
    """vLLM's ModelConfig, as far as room for adapters goes."""

    is_moe = is_multimodal_model = is_quantized = False
    quantization, architectures, vocabulary, takes = None, ["LlamaForCausalLM"], 32_000, True

    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)
        self.registry = self

    def get_vocab_size(self) -> int:
        return self.vocabulary

    def resolve_model_cls(self, architectures: list[str], config: Any) -> tuple[type, str]:
        assert config is self
        return type("Found", (), {"supports_lora": True} if self.takes else {}), architectures[0]


@pytest.mark.parametrize("facts", [
    {"is_moe": True}, {"is_multimodal_model": True}, {"is_quantized": True}, {"quantization": "bitsandbytes"}, {"vocabulary": 262_144},
    {"takes": False},
])  # fmt: skip
def test_a_plain_model_has_room_for_adapters_where_that_costs_little(facts: dict[str, Any]) -> None:
    assert takes_adapters(Model())
    assert not takes_adapters(Model(**facts))


def test_a_plain_model_starts_without_room_where_it_does_not_start_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []

    def engine(arguments: dict[str, Any], rank: int, *given: Any, **more: Any) -> Any:
        started.append(rank)
        if rank:
            raise ExecutorError("OutOfMemory", "too much", retryable=True)
        return SimpleNamespace(lora_rank=rank)

    monkeypatch.setattr(vllm_model, "VllmEngine", engine)
    (tmp_path / "config.json").write_text("{}")
    model = {"source": {"type": "local", "identifier": str(tmp_path)}}
    loaded = vllm_model.load(spec(model=model), place())
    assert started == [16, 0]
    assert loaded.kept_as == vllm_model.identities(spec(model=model), place())[0]
    # one that was asked for has to start
    with pytest.raises(ExecutorError, match="too much"):
        vllm_model.load(spec(model={**model, "vllm": {"enable_lora": True}}), place())


@pytest.mark.parametrize(
    ("given", "devices", "engine"),
    [
        ({}, (), "transformers"),
        ({}, (0,), "vllm"),
        ({"model": {"vllm": {"dtype": "float32"}}}, (), "vllm"),
        ({"inference": {"prompt_logprobs": 1}}, (), "vllm"),
        ({"inference": {"engine": "vllm"}}, (), "vllm"),
        ({"inference": {"engine": "transformers"}}, (0,), "transformers"),
        ({"model": {"vllm": {"dtype": "float32"}}, "enforce_cpu": True}, (), "transformers"),
        ({"model": {"adapters": [{"path": "/a"}, {"path": "/b"}]}}, (0,), "transformers"),
        ({"model": {"adapters": [{"path": "/a"}, {"path": "/b", "apply": "merge"}]}}, (0,), "vllm"),
    ],
)
def test_the_engine_is_the_one_that_suits(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], devices: tuple[int, ...], engine: str) -> None:
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "")
    chosen = engine_choice.choose_engine(spec(**given), place(*devices))
    assert chosen.engine == engine
    assert chosen.why


def test_where_vllm_is_missing_transformers_answers_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(engine_choice.shutil, "which", lambda _: None)
    fallback = engine_choice.choose_engine(spec(model={"vllm": {"max_model_len": 9}}), place())
    assert fallback.engine == "transformers"
    assert fallback.why == 'the task has settings in model.vllm, but vLLM is not installed: pip install "mloc[vllm]"'
    with pytest.raises(ExecutorError, match=r'inference\.engine is vllm, and vLLM is not installed: pip install "mloc\[vllm-cuda\]"') as caught:
        engine_choice.choose_engine(spec(inference={"engine": "vllm"}), place(0))
    assert not caught.value.retryable


def test_two_adapters_on_top_are_refused_where_vllm_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "")
    asked = spec(inference={"engine": "vllm"}, model={"adapters": [{"path": "/a"}, {"path": "/b"}]})
    with pytest.raises(ExecutorError, match="one adapter on top"):
        engine_choice.choose_engine(asked, place())


@pytest.mark.parametrize("items", [
    [{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/a.png"}}]}]}],
    ["a", {"prompt": [{"type": "image", "image": "/a.png"}]}],
])  # fmt: skip
def test_items_that_hold_images_are_for_transformers_unless_vllm_is_named(monkeypatch: pytest.MonkeyPatch, items: list[Any]) -> None:
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "")
    data = {"type": "list", "items": items}
    chosen = engine_choice.choose_engine(spec(data=data), place(0))
    assert chosen.engine == "transformers"
    assert chosen.why == "the task runs on a GPU, but data holds images, which vLLM is given only where inference.engine names it"
    assert engine_choice.choose_engine(spec(data=data, inference={"engine": "vllm"}), place(0)).engine == "vllm"


@pytest.mark.parametrize("kind", ["rag", "agent", "eval"])
@pytest.mark.parametrize(
    ("given", "devices", "engine"),
    [
        ({}, (), "transformers"),
        ({}, (0,), "vllm"),
        ({"model": {"vllm": {"dtype": "float32"}}}, (), "vllm"),
        ({"enforce_cpu": True}, (0,), "transformers"),
    ],
)
def test_whatever_asks_questions_has_the_engine_that_inference_has(
    monkeypatch: pytest.MonkeyPatch, kind: str, given: dict[str, Any], devices: tuple[int, ...], engine: str
) -> None:
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "")
    assert engine_choice.choose_engine(spec(kind, **given), place(*devices)) == engine_choice.choose_engine(spec(**given), place(*devices))
    assert engine_choice.choose_engine(spec(kind, **given), place(*devices)).engine == engine


@pytest.mark.parametrize("kind", ["embed", "score", "rerank"])
def test_vectors_and_scores_are_vllms_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "")
    assert engine_choice.choose_engine(spec(kind), place(0)).engine == "transformers"
    for asked in ({"inference": {"engine": "vllm"}}, {"model": {"vllm": {"dtype": "float32"}}}):
        assert [engine_choice.choose_engine(spec(kind, **asked), place(*devices)).engine for devices in ((), (0,))] == ["vllm", "vllm"]
    made = engine_arguments(spec(kind, model={"vllm": {"max_model_len": 64}}), place(), pools=True)
    assert (made["runner"], made["max_model_len"]) == ("pooling", 64)
    assert "enable_prefix_caching" not in made


def test_a_model_that_judges_has_room_on_the_gpu_unless_vllm_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "")
    judged = {"eval": {"harness": "judge", "judge": "/judge"}}
    chosen = engine_choice.choose_engine(spec("eval", **judged), place(0))
    assert (chosen.engine, chosen.why) == ("transformers", "the task runs on a GPU, but the model that judges needs room beside it")
    asked = spec("eval", model={"vllm": {"gpu_memory_utilization": 0.5}}, **judged)
    assert engine_choice.choose_engine(asked, place(0)).engine == "vllm"


def test_a_wish_by_name_is_strict() -> None:
    assert wish_of("inference", {"engine": "vllm"}, {}, enforce_cpu=False, on_device=False).strict
    assert not wish_of("inference", {}, {"dtype": "auto"}, enforce_cpu=False, on_device=False).strict
