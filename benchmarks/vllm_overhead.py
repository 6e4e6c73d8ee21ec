"""What MLOC costs around vLLM on the CPU: CPU time of the whole cell (API, scheduler, worker, host, …) beside a bare script with the same work.

    python benchmarks/vllm_overhead.py [--pairs 15] [--starts 3] [--rows 1000] [--hidden 256] [--layers 4] [--spin]
                                       [--quick] [--write | --output FILE]

Both start vLLM with the same arguments, threads and environment on the same model of random weights, read the same prompts from files and write
the same number of tokens; vLLM runs in as many processes on either side, and both are compared. How it is measured: overhead.py. In the cell
follow a task of the small size for each of two adapters, which must find the same engine. `--write` keeps results/vllm_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import overhead
import yaml
from measuring import spread

KEPT = Path(__file__).resolve().parent / "results" / "vllm_overhead.json"
TOKENS = 64  # that are written for each row
SMALL = 20  # rows
MAX_LEN = 256
ENGINE = {"max_model_len": MAX_LEN, "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20, "enable_lora": True}
ADAPTERS = ("red", "blue", "red")  # of the cell's last tasks
LORA_OF_MLOC = {"max_lora_rank": 16, "max_loras": 4}  # what it starts the engine with where the task says only enable_lora
ENVIRON = {
    "OMP_NUM_THREADS": str(os.cpu_count() or 1), "MKL_NUM_THREADS": str(os.cpu_count() or 1), "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}  # fmt: skip
WAITING = """
def asleep():
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    waited = SpinCondition.wait

    def wait(self, timeout_ms=None):
        self.busy_loop_s = 0
        waited(self, 10 if timeout_ms is None else min(timeout_ms, 10))

    SpinCondition.wait = wait
"""
"""vLLM's engine core and its worker, which on the CPU are two processes, look for each other's messages without a pause for a second after the
last: so the one that waits uses what is left of the machine, and its CPU time says how long that was and not what was done. As a plug-in of
vLLM, on either side, this has them sleep until they
are told; for 10 ms at most, since the first word may get lost."""
BARE = """
import json, sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    model, engine, tokens, *files = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    llm = LLM(model, dtype="float32", enable_prefix_caching=True, max_logprobs=-1, **engine)
    for file in files:
        if not sys.stdin.readline():
            break
        rows = [json.loads(line)["prompt"] for line in open(file)]
        outputs = llm.generate(rows, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True), use_tqdm=False)
        with open(file + ".answers", "w") as out:
            for row, answer in zip(rows, outputs):
                one = answer.outputs[0]
                out.write(json.dumps({"prompt": row, "output": one.text, "tokens": len(one.token_ids)}) + "\\n")
        print("answered", flush=True)
"""


def main() -> None:
    asked = _asked()
    with tempfile.TemporaryDirectory(prefix="mvo", dir="/tmp") as place:
        folder = Path(place)
        _make_models(folder, asked.hidden, asked.layers)
        large = overhead.batches(asked) - 2
        files = _write_prompts(folder, (SMALL, SMALL, *[asked.rows] * large, *[SMALL] * len(ADAPTERS)))
        environ = _environment(folder, asked.spin)
        result = overhead.measure(
            asked, partial(_bare, folder, environ, files[: 2 + large]), partial(_ours, folder, environ, files), afterwards=len(ADAPTERS)
        )
    conditions = {"rows": asked.rows, "small_rows": SMALL, "tokens_per_row": TOKENS, "hidden": asked.hidden, "layers": asked.layers}
    adapters = spread([lap["seconds"] for start in result["starts"] for lap in start["afterwards"]]).median
    overhead.finish({**conditions, "spin": asked.spin, "adapter_task_sec": adapters, **result}, KEPT, asked)


def _make_models(folder: Path, hidden: int, layers: int) -> None:
    """`model`, and `red` and `blue`, two adapters for it, all of random weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from mloc.core.language.model_spec import ScratchSource
    from mloc.executors.models.scratch_model import make_scratch_model

    heads = max(4, hidden // 64)
    source = ScratchSource(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, vocab_size=400, max_position_embeddings=MAX_LEN)
    for seed, name in enumerate(("model", "red", "blue")):
        torch.manual_seed(seed)
        model, tokenizer = make_scratch_model(source, ["What is 1 plus 2? 3 4 5 6 7 8 9 0"])
        if name != "model":
            model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
        else:
            tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)


def _write_prompts(folder: Path, sizes: tuple[int, ...]) -> list[Path]:
    """A jsonl file for each batch; no prompt is in two of them."""
    files, at = [], 0
    for number, size in enumerate(sizes):
        files.append(folder / f"batch{number}.jsonl")
        files[-1].write_text("".join(json.dumps({"prompt": f"What is {row} plus {row * 7 % 1000}?"}) + "\n" for row in range(at, at + size)))
        at += size
    return files


def _environment(folder: Path, spin: bool) -> dict[str, str]:
    """Of either side; with the plug-in, unless they may `spin`."""
    environ = overhead.environment(ENVIRON)
    if spin:
        return environ
    plugin = folder / "plugin"
    about = plugin / "waiting-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (plugin / "waiting.py").write_text(WAITING)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[vllm.general_plugins]\nwaiting = waiting:asleep\n")
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(plugin), environ.get("PYTHONPATH"))))}


def _bare(folder: Path, environ: dict[str, str], batches: list[Path], _: int) -> overhead.Bare:
    def check(number: int) -> None:
        answers = [json.loads(line) for line in Path(f"{batches[number]}.answers").read_text().splitlines()]
        _check([answer["tokens"] for answer in answers], batches[number])

    given = (str(folder / "model"), json.dumps({**ENGINE, **LORA_OF_MLOC}), str(TOKENS), *map(str, batches))
    return overhead.Bare(BARE, given, environ, folder, check)


def _ours(folder: Path, environ: dict[str, str], files: list[Path], number: int) -> overhead.Ours:
    def check(number: int, path: Path) -> None:
        result = json.loads(path.read_text())
        if any("output" not in item for item in result["items"]):
            raise RuntimeError(f"rows failed: {next(item for item in result['items'] if 'output' not in item)}")
        _check([item["usage"]["completion_tokens"] for item in result["items"]], files[number])

    adapters = [""] * (len(files) - len(ADAPTERS)) + list(ADAPTERS)
    tasks = [_task(folder, file, adapter) for file, adapter in zip(files, adapters, strict=True)]
    return overhead.Ours(folder / f"cell{number}", tasks, environ, check)


def _check(tokens: list[int], batch: Path) -> None:
    asked = len(batch.read_text().splitlines())
    if tokens != [TOKENS] * asked:
        raise RuntimeError(f"not the same work: {len(tokens)} answers of {sum(tokens)} tokens in place of {asked} with {TOKENS} each")


def _task(folder: Path, file: Path, adapter: str) -> str:
    adapters = {"adapters": [{"name": adapter, "path": str(folder / adapter)}]} if adapter else {}
    spec: dict[str, Any] = {
        "taskType": "inference", "data": {"jsonl": {"path": str(file)}},
        "model": {"source": {"type": "local", "identifier": str(folder / "model")}, "vllm": ENGINE, **adapters},
        "inference": {"engine": "vllm", "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "chat": "off"},
    }  # fmt: skip
    return yaml.safe_dump({"apiVersion": "mloc/v1", "kind": "InferenceTask", "metadata": {"name": "overhead"}, "spec": spec})


def _asked() -> argparse.Namespace:
    parser = overhead.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="of the large batch")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=4, help="of the model")
    parser.add_argument("--spin", action="store_true", help="let vLLM's processes wait for each other as they do by themselves: wide awake")
    asked = parser.parse_args()
    if asked.quick:
        asked.pairs, asked.starts, asked.rows = 2, 1, 60
    return asked


if __name__ == "__main__":
    main()
