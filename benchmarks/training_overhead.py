"""What MLOC costs around a training: CPU time of the whole cell (API, scheduler, worker, host, …) beside a bare TRL script with the same work.

    python benchmarks/training_overhead.py [--pairs 15] [--starts 3] [--steps 200] [--hidden 128] [--layers 2] [--quick] [--write | --output FILE]

Both train the same model of random weights on the same rows of a file with the same settings, threads and environment, in one process; loading
and saving included. They must end at the same loss. How it is measured: overhead.py. `--write` keeps results/training_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import overhead
import yaml

KEPT = Path(__file__).resolve().parent / "results" / "training_overhead.json"
SMALL = 20  # steps
ENVIRON = {"OMP_NUM_THREADS": str(os.cpu_count() or 1), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
ROWS = [{"prompt": f"What is {a} plus {b}?", "response": f"{a} plus {b} is {a + b}."} for a in range(20) for b in range(20)]
SETTINGS = {"per_device_train_batch_size": 32, "learning_rate": 1e-3, "logging_steps": 10, "save_strategy": "no", "seed": 0}
BARE = """
import json, sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
model, file, out, settings, *batches = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), *map(int, sys.argv[5:])
turns = lambda role, text: [{"role": role, "content": text}]
for number, steps in enumerate(batches):
    if not sys.stdin.readline():
        break
    rows = [json.loads(line) for line in open(file)]
    data = Dataset.from_list([{"prompt": turns("user", r["prompt"]), "completion": turns("assistant", r["response"])} for r in rows])
    config = SFTConfig(output_dir=f"{out}/{number}", max_steps=steps, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                       disable_tqdm=True, dataloader_pin_memory=False, **settings)
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = SFTTrainer(AutoModelForCausalLM.from_pretrained(model, dtype="float32"), config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(f"{out}/{number}/final")
    with open(f"{out}/{number}/loss", "w") as told:
        told.write(str(trainer.state.log_history[-2]["loss"]))
    print("answered", flush=True)
"""


def main() -> None:
    asked = _asked()
    steps = [SMALL, SMALL] + [asked.steps] * (overhead.batches(asked) - 2)
    with tempfile.TemporaryDirectory(prefix="mto", dir="/tmp") as place:
        folder = Path(place)
        _make_model(folder, asked.hidden, asked.layers)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        losses = Losses(steps)
        result = overhead.measure(asked, partial(_bare, folder, steps, losses), partial(_ours, folder, steps, losses))
    overhead.finish({"steps": asked.steps, "small_steps": SMALL, "hidden": asked.hidden, "layers": asked.layers, **result}, KEPT, asked)


class Losses:
    """The same work ends at the same loss, as far as the log shows it. `steps`: of each batch."""

    def __init__(self, steps: list[int]) -> None:
        self._steps = steps
        self._known: dict[int, float] = {}

    def check_bare(self, folder: Path, number: int) -> None:
        self._check(number, float((folder / "bare" / str(number) / "loss").read_text()))

    def check_ours(self, number: int, result: Path) -> None:
        history = json.loads(result.read_text())["training"]["history"]
        self._check(number, [point["loss"] for point in history if "loss" in point][-1])

    def _check(self, number: int, loss: float) -> None:
        known = self._known.setdefault(self._steps[number], loss)
        if abs(loss - known) > 1e-3:
            raise RuntimeError(f"not the same work: a loss of {loss} after {self._steps[number]} steps, and of {known}")


def _make_model(folder: Path, hidden: int, layers: int) -> None:
    from mloc.core.language.model_spec import ScratchSource
    from mloc.executors.models.scratch_model import make_scratch_model

    source = ScratchSource(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=max(4, hidden // 64), vocab_size=400)
    model, tokenizer = make_scratch_model(source, [f"{row['prompt']} {row['response']}" for row in ROWS])
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def _bare(folder: Path, steps: list[int], losses: Losses, _: int) -> overhead.Bare:
    given = (str(folder / "model"), str(folder / "rows.jsonl"), str(folder / "bare"), json.dumps(SETTINGS), *map(str, steps))
    return overhead.Bare(BARE, given, overhead.environment(ENVIRON), folder, partial(losses.check_bare, folder))


def _ours(folder: Path, steps: list[int], losses: Losses, number: int) -> overhead.Ours:
    return overhead.Ours(folder / f"cell{number}", [_task(folder, one) for one in steps], overhead.environment(ENVIRON), losses.check_ours)


def _task(folder: Path, steps: int) -> str:
    spec = {
        "taskType": "sft", "model": {"source": {"type": "local", "identifier": str(folder / "model")}},
        "data": {"jsonl": {"path": str(folder / "rows.jsonl")}}, "training": {**SETTINGS, "max_steps": steps}, "enforce_cpu": True,
    }  # fmt: skip
    return yaml.safe_dump({"apiVersion": "mloc/v1", "kind": "SFTTask", "metadata": {"name": "overhead"}, "spec": spec})


def _asked() -> argparse.Namespace:
    parser = overhead.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of the large batch")
    parser.add_argument("--hidden", type=int, default=128, help="width of the model")
    parser.add_argument("--layers", type=int, default=2, help="of the model")
    asked = parser.parse_args()
    if asked.quick:
        asked.pairs, asked.starts, asked.steps = 2, 1, 60
    return asked


if __name__ == "__main__":
    main()
