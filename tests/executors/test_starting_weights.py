"""Weights and adapters that a task starts from: `checkpoint.load` and `model.adapters`, applied right or refused with the reason."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import Failed
from mloc.core.language.model_spec import ScratchSource

pytestmark = pytest.mark.models

names = (f"t{number}" for number in itertools.count())
ASKED = {
    "data": {"type": "list", "items": ["one fox", "two lazy dogs"]},
    "inference": {"max_tokens": 4, "temperature": 0, "ignore_eos": True, "logprobs": 5},
}
PAIRS = {"type": "list", "items": [{"prompt": f"What is {i}?", "response": f"{i}."} for i in range(4)]}


@pytest.fixture(scope="module")
def folder(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`other`: a model of the same sizes; `wide`: one of others; `a` and `b`: adapters for the random model; `of_wide`: one for the wide one."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from mloc.executors.models.scratch_model import make_scratch_model

    made = tmp_path_factory.mktemp("weights")
    for name, width, seed in (("other", 32, 1), ("wide", 64, 1)):
        source = ScratchSource(
            hidden_size=width, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, max_position_embeddings=256, seed=seed
        )  # fmt: skip
        model, tokenizer = make_scratch_model(source, ["the quick brown fox jumps over the lazy dog"])
        model.save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
    for seed, (name, base, rank) in enumerate((("a", random_model, 4), ("b", random_model, 2), ("of_wide", made / "wide", 4))):
        torch.manual_seed(seed)
        lora = LoraConfig(r=rank, lora_alpha=400, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(made / name)
    return made


def start(host: DrivenHost, folder: Path, model: Any, task_type: str = "inference", **more: Any) -> tuple[str, Path]:
    name = next(names)
    host.send(task(name, task_type, folder, model=model, **more))
    return name, folder


def close(numbers: list[float]) -> Any:
    return pytest.approx(numbers, abs=0.01)


def answers(host: DrivenHost, folder: Path, source: Path, load: Path | None = None, *adapters: dict[str, Any]) -> list[float]:
    """How likely the model finds the likeliest tokens: its fingerprint."""
    model = {"source": {"type": "local", "identifier": str(source)}, "adapters": list(adapters)}
    more = {"checkpoint": {"load": {"path": str(load)}}} if load is not None else {}
    name, _ = start(host, folder, model, **more, **ASKED)
    outputs = [item["outputs"][0] for item in published_result(host, name, folder)["items"]]
    return [top["logprob"] for output in outputs for place in output["logprobs"] for top in place["top"]]


def test_a_checkpoint_of_whole_weights_takes_the_place_of_the_models(
    warm_host: DrivenHost, random_model: Path, folder: Path, tmp_path: Path
) -> None:
    plain, other = answers(warm_host, tmp_path, random_model), answers(warm_host, tmp_path, folder / "other")
    assert plain != close(other)
    assert answers(warm_host, tmp_path, random_model, folder / "other") == close(other)
    assert answers(warm_host, tmp_path, random_model) == close(plain)  # a warm engine is not mistaken for the other


def test_an_adapter_acts_alike_as_a_checkpoint_at_runtime_and_merged(
    warm_host: DrivenHost, random_model: Path, folder: Path, tmp_path: Path
) -> None:
    tuned = answers(warm_host, tmp_path, random_model, folder / "a")
    assert tuned != close(answers(warm_host, tmp_path, random_model))
    for apply in ("runtime", "merge"):
        assert answers(warm_host, tmp_path, random_model, None, {"path": str(folder / "a"), "apply": apply}) == close(tuned)


@pytest.mark.deep
def test_several_adapters_act_together_in_whatever_way_each_is_applied(
    warm_host: DrivenHost, random_model: Path, folder: Path, tmp_path: Path
) -> None:
    def both(first: str, second: str) -> list[float]:
        given = ({"name": "x", "path": str(folder / "a"), "apply": first}, {"name": "y", "path": str(folder / "b"), "apply": second})
        return answers(warm_host, tmp_path, random_model, None, *given)

    together = both("runtime", "runtime")
    assert together != close(answers(warm_host, tmp_path, random_model, folder / "a"))
    for ways in (("merge", "merge"), ("merge", "runtime"), ("runtime", "merge")):
        assert both(*ways) == close(together)
    assert answers(warm_host, tmp_path, random_model, folder / "a", {"path": str(folder / "b"), "apply": "merge"}) == close(together)


def test_weights_that_do_not_fit_are_refused_with_the_reason_and_not_tried_again(
    warm_host: DrivenHost, random_model: Path, folder: Path, tmp_path: Path
) -> None:
    source = {"source": {"type": "local", "identifier": str(random_model)}}
    cases = [
        ({"checkpoint": {"load": {"path": str(folder / "of_wide")}}}, source, f"the adapter in {folder / 'of_wide'} does not fit the model"),
        ({}, {**source, "adapters": [{"path": str(folder / "of_wide")}]}, "does not fit the model"),
        ({}, {**source, "adapters": [{"path": str(folder / "a")}, {"path": str(folder / "of_wide")}]}, "does not fit the model"),
        ({}, {**source, "adapters": [{"path": str(folder / "other")}]}, "holds no adapter"),
        ({"checkpoint": {"load": {"path": str(tmp_path)}}}, source, f"{tmp_path} holds neither a model (config.json) nor an adapter"),
        ({"checkpoint": {"load": {"path": "/no/such/folder"}}}, source, "checkpoint.load: /no/such/folder is not there"),
    ]
    for more, model, said in cases:
        name, _ = start(warm_host, tmp_path, model, **more, **ASKED)
        error = warm_host.wait_of(Failed, name).error
        assert said in error.message
        assert not error.retryable


@pytest.mark.deep
def test_a_training_starts_from_weights_or_goes_on_with_an_adapter(
    warm_host: DrivenHost, random_model: Path, folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    source = {"source": {"type": "local", "identifier": str(random_model)}}
    still = {"max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-9}

    def trained(task_type: str, load: str, final: str, **model: Any) -> dict[str, Any]:
        checkpoint = {"load": {"path": str(folder / load)}}
        name, _ = start(warm_host, tmp_path, {**source, **model}, task_type, checkpoint=checkpoint, data=PAIRS, training=still)
        return load_file(Path(published_result(warm_host, name, tmp_path)[f"{final}_path"]) / files[final])

    files = {"final_model": "model.safetensors", "final_lora": "adapter_model.safetensors"}
    for task_type, load, final in (("sft", "other", "final_model"), ("lora_sft", "a", "final_lora")):
        before, after = load_file(folder / load / files[final]), trained(task_type, load, final)
        assert before.keys() == after.keys()
        assert all(before[name].allclose(after[name], atol=1e-5) for name in before)
