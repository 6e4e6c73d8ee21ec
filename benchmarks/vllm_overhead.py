"""What MLOC costs around vLLM on the CPU: CPU time of the whole cell (API, scheduler, worker, host, …) beside a bare script with the same work.

    python benchmarks/vllm_overhead.py [--pairs 5] [--rows 2000] [--quick] [--write]

Both start vLLM with the same arguments and threads on the same tiny model, give it the same prompts, and write the same number of tokens; vLLM
runs in as many processes on either side, which the script checks. The two alternate, each in fresh processes, engine start included. CPU time
and not wall time is compared: others may use the machine. It is read while all processes still live, so that none of it is lost with an engine
that is killed. MLOC is counted from just before the submission until the result is published. In the same cell follow a second task, which
finds the engine warm, and one for each of two adapters, whose engine must be the same process. `--write` keeps results/vllm_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from measuring import CpuMeter, descendants, spread
from rows import Cell

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results" / "vllm_overhead.json"
TOKENS = 64  # that are written for each row
WARM_ROWS = 20
ENGINE = {"max_model_len": 256, "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20, "enable_lora": True}
LORA_OF_MLOC = {"max_lora_rank": 16, "max_loras": 4}  # what it starts the engine with where the task says only enable_lora
ENVIRON = {
    "OMP_NUM_THREADS": str(os.cpu_count() or 1), "MKL_NUM_THREADS": str(os.cpu_count() or 1), "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}  # fmt: skip
BARE = """
import json, sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    model, rows, out, engine, tokens = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3], json.loads(sys.argv[4]), int(sys.argv[5])
    llm = LLM(model, dtype="float32", enable_prefix_caching=True, max_logprobs=-1, **engine)
    outputs = llm.generate(rows, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True), use_tqdm=False)
    json.dump([{"output": o.outputs[0].text, "tokens": len(o.outputs[0].token_ids)} for o in outputs], open(out, "w"))
    print("answered", flush=True)
    sys.stdin.read()
"""


def main() -> None:
    asked = _asked()
    with tempfile.TemporaryDirectory(prefix="mvo", dir="/tmp") as place:
        folder = Path(place)
        _make_models(folder)
        (folder / "bare.py").write_text(BARE)
        prompts = [f"What is {row} plus {row * 7 % 1000}?" for row in range(asked.rows)]
        pairs = [_pair(folder, number, prompts) for number in range(asked.pairs)]
    ratios = spread([pair["ratio"] for pair in pairs])
    told = {
        "rows": asked.rows, "tokens_per_row": TOKENS, "pairs": pairs,
        "overhead_percent": round((ratios.median - 1) * 100, 2),
        "range_percent": [round((ratio - 1) * 100, 2) for ratio in (ratios.low, ratios.high)],
        "cold_sec": spread([pair["cold_sec"] for pair in pairs]).median,
        "warm_sec": spread([pair["warm_sec"] for pair in pairs]).median,
        "adapter_sec": spread([seconds for pair in pairs for seconds in pair["adapter_sec"]]).median,
    }  # fmt: skip
    print(json.dumps({name: value for name, value in told.items() if name != "pairs"}))
    if asked.write:
        KEPT.write_text(json.dumps(told, indent=1) + "\n")


def _pair(folder: Path, number: int, prompts: list[str]) -> dict[str, Any]:
    bare = _bare(folder, prompts) if number % 2 == 0 else None
    ours = _ours(folder, folder / f"cell{number}", prompts)
    bare = bare or _bare(folder, prompts)
    if (bare["tokens"], bare["processes"]) != (ours["tokens"], ours["processes"]):
        raise RuntimeError(f"not the same work: {bare['tokens']} tokens in {bare['processes']} processes of vLLM's, "
                           f"and {ours['tokens']} in {ours['processes']} with MLOC")  # fmt: skip
    pair = {
        "bare_cpu_s": bare["cpu"], "mloc_cpu_s": ours["cpu"], "ratio": round(ours["cpu"] / bare["cpu"], 4),
        "foreign_cores": [bare["foreign"], ours["foreign"]], **{name: ours[name] for name in ("cold_sec", "warm_sec", "warm_cpu_s", "adapter_sec")},
    }  # fmt: skip
    print(pair, flush=True)
    return pair


def _make_models(folder: Path) -> None:
    """`model`, and `red` and `blue`, two adapters for it, all of random weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from mloc.core.language.model_spec import ScratchSource
    from mloc.executors.models.scratch_model import make_scratch_model

    source = ScratchSource(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=400, max_position_embeddings=256)
    for seed, name in enumerate(("model", "red", "blue")):
        torch.manual_seed(seed)
        model, tokenizer = make_scratch_model(source, ["What is 1 plus 2? 3 4 5 6 7 8 9 0"])
        if name != "model":
            model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
        else:
            tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)


def _bare(folder: Path, prompts: list[str]) -> dict[str, Any]:
    (folder / "prompts.json").write_text(json.dumps(prompts))
    out = folder / "bare.json"
    arguments = (str(folder / "model"), str(folder / "prompts.json"), str(out), json.dumps({**ENGINE, **LORA_OF_MLOC}), str(TOKENS))
    environ = {**os.environ, **ENVIRON}
    with (
        (folder / "bare.err").open("wb") as errors,
        subprocess.Popen(
            [sys.executable, str(folder / "bare.py"), *arguments], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as child,
    ):
        meter = CpuMeter({"bare": child.pid})
        assert child.stdout is not None
        if not any(line == b"answered\n" for line in iter(child.stdout.readline, b"")):
            raise RuntimeError("bare vLLM failed: " + (folder / "bare.err").read_text()[-2000:])
        used, foreign, processes = meter.used()["bare"], meter.foreign_cores(), len(_vllm_processes(child.pid))
        child.communicate(b"")
    return {"cpu": round(used, 2), "foreign": foreign, "processes": processes, "tokens": sum(one["tokens"] for one in json.loads(out.read_text()))}


def _ours(folder: Path, place: Path, prompts: list[str]) -> dict[str, Any]:
    place.mkdir()
    cell = Cell(place, 1)
    try:
        meter = CpuMeter({"mloc": cell.pid})
        task, cold = _timed(cell, _task(folder, prompts))
        used, foreign, engine = meter.used()["mloc"], meter.foreign_cores(), _vllm_processes(cell.pid)
        with urllib.request.urlopen(f"{cell.url}/api/v1/results/{task}", timeout=60) as answer:
            result = json.load(answer)
        if any("output" not in item for item in result["items"]):
            raise RuntimeError(f"rows failed: {next(item for item in result['items'] if 'output' not in item)}")
        few = prompts[:WARM_ROWS]
        meter = CpuMeter({"mloc": cell.pid})
        _, warm = _timed(cell, _task(folder, few))
        warm_used = meter.used()["mloc"]
        swaps = [_timed(cell, _task(folder, few, adapter))[1] for adapter in ("red", "blue", "red")]
        if _vllm_processes(cell.pid) != engine:
            raise RuntimeError("the engine was started again for a warm task or an adapter")
        return {
            "cpu": round(used, 2), "foreign": foreign, "processes": len(engine), "tokens": result["usage"]["completion_tokens"],
            "cold_sec": cold, "warm_sec": warm, "warm_cpu_s": round(warm_used, 2), "adapter_sec": swaps,
        }  # fmt: skip
    finally:
        cell.close()


def _timed(cell: Cell, task: str) -> tuple[str, float]:
    """Its id, and the seconds from the submission until its result was published."""
    began = time.monotonic()
    id = cell.submit(task)
    cell.wait(id)
    return id, round(time.monotonic() - began, 3)


def _task(folder: Path, prompts: list[str], adapter: str = "") -> str:
    adapters = {"adapters": [{"name": adapter, "path": str(folder / adapter)}]} if adapter else {}
    spec = {
        "taskType": "inference", "data": {"type": "list", "items": prompts},
        "model": {"source": {"type": "local", "identifier": str(folder / "model")}, "vllm": ENGINE, **adapters},
        "inference": {"engine": "vllm", "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "chat": "off"},
    }  # fmt: skip
    return yaml.safe_dump({"apiVersion": "mloc/v1", "kind": "InferenceTask", "metadata": {"name": "overhead"}, "spec": spec})


def _vllm_processes(root: int) -> set[int]:
    """Engine cores and workers below that process."""
    found = set()
    for pid in descendants({"root": root})["root"]:
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"VLLM::"):
                found.add(pid)
        except OSError:
            continue
    return found


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="one pair of 50 rows: shows that it runs, the figures mean little")
    parser.add_argument("--write", action="store_true", help="keep the figures in results/vllm_overhead.json")
    asked = parser.parse_args()
    if asked.quick:
        asked.pairs, asked.rows = 1, 50
    return asked


if __name__ == "__main__":
    main()
