"""What MLOC costs around a training: CPU time of the whole cell (API, scheduler, worker, host, …) beside a bare TRL script with the same work.

    python benchmarks/training_overhead.py [--pairs 5] [--steps 600] [--quick] [--write]

Both train the same tiny model on the same rows with the same settings in one process, imports, loading and saving included, and with the same
threads. The two alternate, each in fresh processes. CPU time and not wall time is compared: others may use the machine. MLOC is counted from
just before the submission until the result is published. `--write` keeps the figures in results/training_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from measuring import CpuMeter, spread
from rows import Cell

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results" / "training_overhead.json"
THREADS = {"OMP_NUM_THREADS": str(os.cpu_count() or 1), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
ROWS = [{"prompt": f"What is {a} plus {b}?", "response": f"{a} plus {b} is {a + b}."} for a in range(20) for b in range(20)]
BARE = """
import json, sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
model, rows, out, steps = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3], int(sys.argv[4])
turns = lambda role, text: [{"role": role, "content": text}]
data = Dataset.from_list([{"prompt": turns("user", r["prompt"]), "completion": turns("assistant", r["response"])} for r in rows])
config = SFTConfig(output_dir=out, max_steps=steps, per_device_train_batch_size=32, learning_rate=1e-3, logging_steps=10, save_strategy="no", seed=0,
                   use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False)
tokenizer = AutoTokenizer.from_pretrained(model)
trainer = SFTTrainer(AutoModelForCausalLM.from_pretrained(model, dtype="float32"), config, train_dataset=data, processing_class=tokenizer)
trainer.train()
trainer.save_model(out + "/final")
print(trainer.state.log_history[-2]["loss"])
"""


def main() -> None:
    asked = _asked()
    with tempfile.TemporaryDirectory(prefix="mto", dir="/tmp") as place:
        folder = Path(place)
        model = _make_model(folder)
        (folder / "rows.json").write_text(json.dumps(ROWS))
        pairs = []
        for number in range(asked.pairs):
            first = number % 2 == 0
            bare = _bare(folder, model, asked.steps) if first else None
            ours = _ours(folder / f"cell{number}", model, asked.steps)
            bare = bare or _bare(folder, model, asked.steps)
            ratio = round(ours["cpu"] / bare["cpu"], 4)
            pairs.append({"bare_cpu_s": bare["cpu"], "mloc_cpu_s": ours["cpu"], "ratio": ratio, "foreign_cores": ours["foreign"]})
            assert abs(bare["loss"] - ours["loss"]) < 1e-3, (bare, ours)  # the same work: the same curve
            print(pairs[-1], flush=True)
    told = {
        "steps": asked.steps, "pairs": pairs, "overhead_percent": round((spread([pair["ratio"] for pair in pairs]).median - 1) * 100, 2),
        "range_percent": [round((f([pair["ratio"] for pair in pairs]) - 1) * 100, 2) for f in (min, max)],
    }  # fmt: skip
    print(json.dumps({name: value for name, value in told.items() if name != "pairs"}))
    if asked.write:
        KEPT.write_text(json.dumps(told, indent=1) + "\n")


def _make_model(folder: Path) -> Path:
    from mloc.core.language.model_spec import ScratchSource
    from mloc.executors.models.scratch_model import make_scratch_model

    source = ScratchSource(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=400)
    model, tokenizer = make_scratch_model(source, [f"{row['prompt']} {row['response']}" for row in ROWS])
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def _bare(folder: Path, model: Path, steps: int) -> dict[str, float]:
    command = [sys.executable, "-c", BARE, str(model), str(folder / "rows.json"), str(folder / "bare"), str(steps)]
    with subprocess.Popen(command, env={**os.environ, **THREADS}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        said = child.stdout.read().decode().strip().splitlines()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError("the bare training failed")
    return {"cpu": round(used.ru_utime + used.ru_stime, 2), "loss": float(said[-1])}


def _ours(folder: Path, model: Path, steps: int) -> dict[str, Any]:
    folder.mkdir()
    os.environ.update(THREADS)
    cell = Cell(folder, 1)
    try:
        meter = CpuMeter({"mloc": cell.pid})
        task = cell.submit(_task(model, steps))
        cell.wait(task)
        used, foreign = meter.used()["mloc"], meter.foreign_cores()
        result = json.loads(next(folder.glob(f"results/**/{task}/responses.json")).read_text())
        return {"cpu": round(used, 2), "loss": [point["loss"] for point in result["training"]["history"] if "loss" in point][-1], "foreign": foreign}
    finally:
        cell.close()


def _task(model: Path, steps: int) -> str:
    training = {"max_steps": steps, "per_device_train_batch_size": 32, "learning_rate": 1e-3, "logging_steps": 10, "save_strategy": "no", "seed": 0}
    spec = {
        "taskType": "sft", "model": {"source": {"type": "local", "identifier": str(model)}}, "data": {"items": ROWS}, "training": training,
        "enforce_cpu": True,
    }  # fmt: skip
    return yaml.safe_dump({"apiVersion": "mloc/v1", "kind": "SFTTask", "metadata": {"name": "overhead"}, "spec": spec})


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each training")
    parser.add_argument("--quick", action="store_true", help="two pairs of 150 steps: shows that it runs, the figures mean little")
    parser.add_argument("--write", action="store_true", help="keep the figures in results/training_overhead.json")
    asked = parser.parse_args()
    if asked.quick:
        asked.pairs, asked.steps = 2, 150
    return asked


if __name__ == "__main__":
    main()
