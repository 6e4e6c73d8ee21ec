"""Each kind of training on a tiny model, through a real host: what it is to improve does improve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import CheckpointDone, Failed, Stopped, Telemetry
from mloc.executors.training.model_card import METHODS

pytestmark = pytest.mark.models

SCRATCH = {"type": "scratch", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
ASKED = [f"Say {word}." for word in WORDS]
BOTH = [{"prompt": prompt, "response": f"{answer}, {word}."} for prompt, word in zip(ASKED, WORDS, strict=True) for answer in ("yes", "no")]
PAIRS = [{"prompt": prompt, "chosen": f"yes, {word}.", "rejected": f"no, {word}."} for prompt, word in zip(ASKED, WORDS, strict=True)] * 2
SAYS_YES = [{"type": "regex", "pattern": "^yes"}]
STEADY = {"lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no"}

Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    """What was trained so far, as later tasks get it."""
    return {}


@pytest.fixture(scope="module")
def train(warm_host: DrivenHost, folder: Path, stages: dict[str, Any]) -> Train:
    """Runs a training on the model that says yes as often as no; gives its result."""

    def run(name: str, task_type: str, *, of: str = "base", **spec: Any) -> dict[str, Any]:
        model = {"source": {"type": "stage", "identifier": of} if of else SCRATCH, **spec.pop("model", {})}
        spec["training"] = {**STEADY, **spec.get("training", {})}
        warm_host.send(task(name, task_type, folder, model=model, run_inputs=dict(stages), **spec))
        result = published_result(warm_host, name, folder)
        has_a_card(result, task_type, spec["training"])
        stages[name] = {"task_id": name, "folder": str(folder / name), "result": result}
        return result

    if "base" not in stages:
        learn = {"max_steps": 100, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
        run("base", "sft", of="", data={"type": "list", "items": BOTH}, training=learn)
    return run


def has_a_card(result: dict[str, Any], task_type: str, settings: dict[str, Any]) -> None:
    """Beside the weights: what was done to what, with which settings, how it went."""
    weights = Path(result.get("final_model_path") or result["final_lora_path"])
    card = (weights / "README.md").read_text()
    head, text = card.removeprefix("---\n").split("\n---\n", 1)
    assert task_type in yaml.safe_load(head)["tags"]
    assert METHODS[task_type][0] in text
    assert METHODS[task_type][1] in text
    assert f"| max_steps | {settings['max_steps']} |" in text
    assert f"| steps | {result['training']['steps']} |" in text
    curve = next(line for line in text.splitlines() if line.startswith("| step |"))
    assert ("reward" if task_type in ("ppo", "grpo", "rloo") else "loss") in curve
    assert "| transformers | " in text


def rewards_told(result: dict[str, Any]) -> tuple[float, float]:
    """Mean reward of the first and of the last five steps."""
    told = [point["reward"] for point in result["training"]["history"] if "reward" in point]
    return sum(told[:5]) / 5, sum(told[-5:]) / 5


def tokens_asked(result: dict[str, Any], prompts: list[str]) -> int:
    """Of these prompts in the model's own form."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(result["final_model_path"])
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return sum(len(tokenizer(text)["input_ids"]) for text in tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_a_group_of_answers_raises_the_reward(train: Train, kind: str) -> None:
    learn = {"max_steps": 25, "per_device_train_batch_size": 32, "num_generations": 8, "learning_rate": 2e-3}
    result = train(kind, kind, data={"type": "list", "items": ASKED}, rewards=SAYS_YES, training=learn, generation={"max_new_tokens": 8})
    first, last = rewards_told(result)
    assert 0.2 < first < 0.8
    assert last > 0.95
    usage, steps = result["usage"], [point for point in result["training"]["history"] if "completions/mean_length" in point]
    assert usage["prompt_tokens"] == tokens_asked(result, ASKED) * 25 * 32 // len(ASKED)
    assert usage["completion_tokens"] == round(sum(32 * point["completions/mean_length"] for point in steps))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == steps[-1]["num_tokens"]


def test_ppo_raises_the_score_of_a_reward_model_that_was_trained_before(train: Train) -> None:
    judge = train("judge", "reward", data={"type": "list", "items": PAIRS}, training={"max_steps": 20, "learning_rate": 3e-3})
    assert judge["training"]["final_accuracy"] == 1.0
    assert judge["training"]["final_margin"] > judge["training"]["first_margin"]
    learn = {"max_steps": 25, "per_device_train_batch_size": 32, "mini_batch_size": 16, "learning_rate": 2e-3}
    result = train(
        "ppo", "ppo", data={"type": "list", "items": ASKED}, reward_model={"type": "trained", "source": {"type": "stage", "identifier": "judge"}},
        rewards=[{**SAYS_YES[0], "weight": 0.0}], training=learn, generation={"max_new_tokens": 8},
    )  # fmt: skip
    scores = [point["reward"] for point in result["training"]["history"]]
    assert sum(scores[-5:]) / 5 > scores[0] + 1
    told = [point["rewards/regex"] for point in result["training"]["history"]]
    assert sum(told[-5:]) / 5 > 0.95 > 0.7 > told[0]
    assert result["training"]["final_kl"] > 0
    assert result["usage"]["prompt_tokens"] == tokens_asked(result, ASKED) * 25 * 32 // len(ASKED)
    written = sum(32 * point["answer_tokens"] for point in result["training"]["history"])
    assert result["usage"]["completion_tokens"] == pytest.approx(written, abs=1)


def test_a_reward_model_that_is_an_adapter_scores_and_sorts_as_a_classifier(
    train: Train, warm_host: DrivenHost, folder: Path, stages: dict[str, Any]
) -> None:
    learn = {"max_steps": 20, "learning_rate": 2e-2}
    judge = train("judge-lora", "reward", data={"type": "list", "items": PAIRS}, training=learn, model={"adapter": {"r": 8}})
    assert judge["final_lora_path"].endswith("final_lora")
    assert judge["training"]["final_accuracy"] == 1.0
    rows = [{"prompt": pair["prompt"], "response": pair[kind]} for kind in ("chosen", "rejected") for pair in PAIRS[:8]]
    as_source = {"source": {"type": "stage", "identifier": "judge-lora"}}
    as_adapter = {"source": {"type": "stage", "identifier": "base"}, "adapters": [{"taskId": "judge-lora"}]}
    scores = []
    for number, model in enumerate((as_source, as_adapter)):
        name = f"scored-{number}"
        warm_host.send(task(name, "score", folder, model=model, run_inputs=dict(stages), data={"type": "list", "items": rows}))
        items = published_result(warm_host, name, folder)["items"]
        assert not any("logprob" in item for item in items)
        scores.append([item["score"] for item in items])
    assert min(scores[0][:8]) > max(scores[0][8:]) + 1
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    sorted_rows = [{"query": "Say one.", "documents": ["no, one.", "yes, one."]}]
    for number, model in enumerate((as_source, as_adapter)):
        name = f"sorted-{number}"
        warm_host.send(task(name, "rerank", folder, model=model, run_inputs=dict(stages), data={"type": "list", "items": sorted_rows}))
        (item,) = published_result(warm_host, name, folder)["items"]
        assert [one["text"] for one in item["results"]] == ["yes, one.", "no, one."]
        assert 0 <= item["results"][1]["score"] < item["results"][0]["score"] <= 1


def test_dpo_raises_the_margin(train: Train) -> None:
    learn = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 2e-3}
    told = train("dpo", "dpo", data={"type": "preferences", "preferences": PAIRS}, training=learn)["training"]
    assert told["final_margin"] > told["first_margin"] + 1
    assert told["final_loss"] < told["first_loss"]


def test_kto_moves_good_answers_up_and_bad_ones_down(train: Train) -> None:
    learn = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 2e-3}
    told = train("kto", "kto", data={"type": "preferences", "preferences": PAIRS}, training=learn)["training"]
    assert told["final_reward_chosen"] > told["final_reward_rejected"] + 0.5


def test_an_adapter_on_weights_of_four_bits_learns(train: Train) -> None:
    learn = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 2e-2}
    wanted = [{"prompt": prompt, "response": "perhaps."} for prompt in ASKED]
    result = train("four-bits", "qlora", data={"type": "list", "items": wanted}, training=learn, model={"adapter": {"type": "qlora", "r": 8}})
    assert result["training"]["final_loss"] < result["training"]["first_loss"] / 2
    assert result["final_lora_path"].endswith("final_lora")


def test_ppo_with_an_adapter_leaves_the_weights_below_alone(train: Train, folder: Path) -> None:
    learn = {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 2e-2}
    result = train(
        "ppo-lora", "ppo", data={"type": "list", "items": ASKED}, rewards=SAYS_YES, training=learn, model={"adapter": {"r": 4}},
        generation={"max_new_tokens": 6},
    )  # fmt: skip
    assert result["final_lora_path"].endswith("final_lora")
    assert "final_model_path" not in result
    assert result["training"]["history"][-1]["kl"] != 0


def weights_of(result: dict[str, Any]) -> bytes:
    return (Path(result["final_model_path"]) / "model.safetensors").read_bytes()


@pytest.mark.deep
def test_a_ppo_training_stopped_midway_and_resumed_equals_a_straight_one(
    train: Train, warm_host: DrivenHost, folder: Path, stages: dict[str, Any]
) -> None:
    evaluated = {"eval_split": 2, "eval_steps": 4, "load_best_model_at_end": True}
    spec: dict[str, Any] = {
        "data": {"type": "list", "items": ASKED}, "rewards": SAYS_YES, "model": {"source": {"type": "stage", "identifier": "base"}},
        "generation": {"max_new_tokens": 6},
    }  # fmt: skip

    def learn(steps: int) -> dict[str, Any]:
        return {**STEADY, "max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "seed": 5, **evaluated}

    unending = learn(100_000)  # no machine is done with them before the stop
    warm_host.send(task("stopped", "ppo", folder, run_inputs=dict(stages), training=unending, **spec))
    warm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "stopped" and frame.step >= 5)
    warm_host.stop("stopped")
    warm_host.wait_of(Stopped, "stopped")
    saved = warm_host.wait_of(CheckpointDone, "stopped")
    assert saved.step >= 5
    some = learn(saved.step + 20)
    warm_host.send(task("stopped", "ppo", folder, attempt=2, run_inputs=dict(stages), run_checkpoint=saved.path, training=some, **spec))
    resumed = published_result(warm_host, "stopped", folder, attempt=2)
    straight = train("straight", "ppo", **spec, training=some)
    without_time = [{name: value for name, value in point.items() if name != "tokens_per_sec"} for point in resumed["training"]["history"]]
    expected = [{name: value for name, value in point.items() if name != "tokens_per_sec"} for point in straight["training"]["history"]]
    assert without_time == expected
    assert all(resumed["training"][name] == straight["training"][name] for name in ("best_step", "best_metric", "final_eval_reward"))
    assert weights_of(resumed) == weights_of(straight)
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [resumed["usage"][name] for name in counted] == [straight["usage"][name] for name in counted]


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("ppo", {"rewards": SAYS_YES, "training": {"learning_rat": 1}}, "did you mean learning_rate?"),
        ("ppo", {"rewards": SAYS_YES, "training": {"mini_batch_size": 5}}, "mini_batch_size must divide"),
        ("ppo", {}, "the task says nothing of what is good"),
        ("ppo", {"rewards": SAYS_YES, "generation": {"temperature": 0}}, "answers that are sampled"),
        ("grpo", {"rewards": [{"type": "regex", "pattern": "("}]}, "no regular expression"),
        ("grpo", {"rewards": [{"type": "accuracy", "column": "ansver"}]}, "no column 'ansver'"),
        ("dpo", {}, "needs chosen and rejected"),
        ("kto", {}, "needs a prompt, a response and a label"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_with_the_reason(
    train: Train, warm_host: DrivenHost, folder: Path, stages: dict[str, Any], kind: str, given: dict[str, Any], said: str
) -> None:
    name = f"bad-{kind}-{abs(hash(said))}"
    model = {"source": {"type": "stage", "identifier": "base"}}
    warm_host.send(task(name, kind, folder, model=model, run_inputs=dict(stages), data={"type": "list", "items": ASKED}, **given))
    error = warm_host.wait_of(Failed, name).error
    assert said in error.message
    assert not error.retryable
