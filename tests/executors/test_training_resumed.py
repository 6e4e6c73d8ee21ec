"""A training of each kind whose host is killed: a fresh host goes on from its checkpoint with the curve of one that nothing happened to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import CheckpointDone

pytestmark = [pytest.mark.deep, pytest.mark.models]

SAVED_AT, STEPS = 9, 17
SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
WORDS = ["one", "two", "three", "four"]
ASKED = [f"Say {word}." for word in WORDS]
ANSWERED = [{"prompt": prompt, "response": f"yes, {word}."} for prompt, word in zip(ASKED, WORDS, strict=True)] * 2
PAIRS = [{"prompt": prompt, "chosen": f"yes, {word}.", "rejected": f"no, {word}."} for prompt, word in zip(ASKED, WORDS, strict=True)] * 2
# no two answers have the same reward: curves of rewards are alike only where the same answers were sampled
REWARD = "def reward(completion):\n    return sum(ord(letter) * at for at, letter in enumerate(str(completion), 1)) % 997 / 997\n"
SAMPLED = {
    "data": {"type": "list", "items": ASKED}, "rewards": [{"type": "python", "code": REWARD}], "generation": {"max_new_tokens": 6},
}  # fmt: skip
LORA = {"adapter": {"r": 2, "lora_dropout": 0.2}}

# a checkpoint in the middle of all that there is to a kind: of a pass over the data, of what is logged together, of what is learned from answers
# that were sampled before, of the steps between two moves of the reference; with an adapter beside the one that is trained, with the best weights
KINDS: dict[str, dict[str, Any]] = {
    "kto": {"data": {"type": "preferences", "preferences": PAIRS}, "of": "adapted"},  # its reference is the adapter as it was
    "reward": {
        "data": {"type": "preferences", "preferences": PAIRS}, "model": LORA,
        "training": {"save_steps": 3, "eval_steps": 3, "eval_split": 2, "load_best_model_at_end": True, "greater_is_better": True},  # the first one
    },
    "qlora": {"data": {"type": "list", "items": ANSWERED}, "model": {"adapter": {"type": "qlora", **LORA["adapter"]}}},
    "grpo": {**SAMPLED, "training": {"num_generations": 4, "steps_per_generation": 2, "num_iterations": 2, "beta": 0.04}},
    "rloo": {
        **SAMPLED, "training": {"num_generations": 4, "gradient_accumulation_steps": 2, "sync_ref_model": True, "ref_model_sync_steps": 4},
    },
    "ppo": {**SAMPLED, "model": LORA, "training": {"mini_batch_size": 2}},
}  # fmt: skip
OF_TIME = ("tokens_per_sec", "step_time", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


class Relay:
    """Trains in one host after the other: a fresh one follows where one was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.host = DrivenHost()
        self._models = {"base": self._trained("base", "sft", {"source": SCRATCH}, "final_model_path")}
        self._models["adapted"] = self._trained("adapted", "lora_sft", {"source": self._models["base"], **LORA}, "final_lora_path")

    def _trained(self, name: str, kind: str, model: dict[str, Any], path: str) -> dict[str, Any]:
        """What others start from."""
        learn = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no"}
        self.host.send(task(name, kind, self._folder, model=model, data={"type": "list", "items": ANSWERED}, training=learn))
        return {"type": "local", "identifier": self.result(name)[path]}

    def begin(self, name: str, kind: str, steps: int, **of_run: Any) -> None:
        given = dict(KINDS[kind])
        source = self._models[given.pop("of", "base")]
        learn = {
            "max_steps": steps, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 12, "logging_steps": 2, "save_strategy": "steps", "save_steps": SAVED_AT, "save_total_limit": 1000, "seed": 5,
        }  # fmt: skip
        spec = {**given, "model": {"source": source, **given.get("model", {})}, "training": {**learn, **given.get("training", {})}}
        self.host.send(task(name, kind, self._folder, **spec, **of_run))

    def killed_with_a_checkpoint(self, name: str, kind: str) -> Path:
        self.begin(name, kind, 100_000)  # no machine is done with them before the kill
        saved = self.host.wait_for(lambda frame: isinstance(frame, CheckpointDone) and (frame.task, frame.step) == (name, SAVED_AT))
        self.host.close()
        self.host = DrivenHost()
        return Path(saved.path)

    def result(self, name: str, attempt: int = 1) -> dict[str, Any]:
        return published_result(self.host, name, self._folder, attempt)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    running = Relay(tmp_path_factory.mktemp("relay"))
    yield running
    running.host.close()


def curve(result: dict[str, Any]) -> list[dict[str, float]]:
    points = [point for point in result["training"]["history"] if "train_runtime" not in point]  # of how long this attempt took
    return [{name: value for name, value in point.items() if name not in OF_TIME} for point in points]


def weights_of(result: dict[str, Any]) -> bytes:
    (file,) = Path(result.get("final_model_path") or result["final_lora_path"]).glob("*.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_goes_on_in_a_fresh_host_with_the_curve_of_one_that_was_not(relay: Relay, kind: str) -> None:
    # given a training that is killed, with a checkpoint
    checkpoint = relay.killed_with_a_checkpoint(kind, kind)
    assert (checkpoint / "best").is_dir() == ("load_best_model_at_end" in KINDS[kind].get("training", {}))
    # when another host goes on from it
    relay.begin(kind, kind, STEPS, attempt=2, run_checkpoint=str(checkpoint))
    resumed = relay.result(kind, attempt=2)
    # then its curve has all that one has that was never stopped, and so have its weights
    relay.begin(f"{kind}-straight", kind, STEPS)
    straight = relay.result(f"{kind}-straight")
    assert [point["step"] for point in curve(straight) if "learning_rate" in point] == [*range(2, STEPS, 2), STEPS]
    assert curve(resumed) == curve(straight)
    assert weights_of(resumed) == weights_of(straight)
    assert resumed["usage"]["total_tokens"] == straight["usage"]["total_tokens"]
    if "rewards" in KINDS[kind]:
        assert len({point["reward"] for point in curve(straight) if "reward" in point}) > 1
