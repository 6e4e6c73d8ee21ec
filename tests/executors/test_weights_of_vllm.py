"""What vLLM's weights may be on the CPU: in parts on several workers, and quantized; the answers are those of the model as it was taught."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import taught_model
from driven_host import DrivenHost, is_gone, processes_of, task, wait_until
from pipeline_run import published_result
from taught_model import ANSWERS

from mloc.executors.inference.engine_choice import vllm_missing

MISSING = vllm_missing(on_device=False)
pytestmark = [
    pytest.mark.models, pytest.mark.deep, pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "vLLM is there"),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: `plain`, and the same weights in `int8` and `awq`."""
    folder = tmp_path_factory.mktemp("taught")
    taught_model.teach(folder / "plain")
    taught_model.quantize(folder / "plain", folder / "int8", taught_model.in_eight_bits, taught_model.INT8)
    taught_model.quantize(folder / "plain", folder / "awq", taught_model.in_four_bits, taught_model.AWQ)
    return folder


def answers(host: DrivenHost, model: Path, folder: Path, **engine: Any) -> list[str]:
    settings = {"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20, **engine}
    asked = {"data": {"type": "list", "items": list(ANSWERS)}, "inference": {"max_tokens": 16, "temperature": 0}}
    host.send(task(model.name, "inference", folder, model={"source": {"type": "local", "identifier": str(model)}, "vllm": settings}, **asked))
    result = published_result(host, model.name, folder)
    assert result["engine"]["name"] == "vllm"
    return [item.get("output", item.get("error")) for item in result["items"]]


def test_weights_of_eight_bits_answer_as_those_that_they_were_made_of(vllm_host: DrivenHost, models: Path, tmp_path: Path) -> None:
    assert answers(vllm_host, models / "int8", tmp_path) == list(ANSWERS.values())


def test_weights_of_four_bits_in_parts_on_two_workers_answer_alike_and_the_workers_end_with_the_host(
    vllm_host: DrivenHost, models: Path, tmp_path: Path
) -> None:
    assert answers(vllm_host, models / "awq", tmp_path, tensor_parallel_size=2) == list(ANSWERS.values())
    workers = processes_of(vllm_host, "Worker_TP")
    assert len(workers) == 2
    os.kill(vllm_host.child.pid, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, workers)))
