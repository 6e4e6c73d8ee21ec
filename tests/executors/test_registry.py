"""What a machine says of the task types that it can run."""

import json
import os
import subprocess
import sys

import pytest

from mloc.core.language.spec import decode_spec
from mloc.core.needs.engine_key import engine_key
from mloc.core.needs.parts import TRACKERS, parts_of
from mloc.executors import registry
from mloc.executors.contract import ExecutorError
from mloc.executors.inference import engine_choice
from mloc.executors.registry import Executor


def test_the_offers_are_printed_as_json_for_programs_that_do_not_import_them() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-m", "mloc.executors.registry", "--json"], env=environment, capture_output=True, check=True)
    offers = {offer["task_type"]: offer for offer in json.loads(ran.stdout)}
    assert offers["echo"]["runs"]
    assert offers["echo"]["light"]
    assert {"inference", "sft", "lora_sft"} <= offers.keys()


def test_what_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "sing", Executor("mloc.executors.echo_executor", extra="voice", requires=("no_such_module",)))
    (offer,) = [offer for offer in registry.available() if offer.task_type == "sing"]
    assert not offer.runs
    assert offer.remedy == 'sing needs no_such_module: pip install "mloc[voice]"'
    with pytest.raises(ExecutorError, match=r'pip install "mloc\[voice\]"'):
        registry.executor_of("sing")


def test_inference_says_where_it_runs_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Executor, "missing", lambda _: [])
    monkeypatch.setattr(engine_choice, "vllm_missing", lambda *, on_device: "vLLM is not installed: …")
    said = {offer.task_type: offer.remark for offer in registry.available()}
    assert said["inference"] == "with transformers only; vLLM is not installed: …"
    assert said["echo"] == ""


def test_a_part_without_its_module_is_named_and_the_rest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_is_installed", lambda name: name != "lm_eval")
    offers = {offer.task_type: offer for offer in registry.available()}
    words = 'the harness lm-eval needs lm_eval: pip install "mloc[eval]"'
    assert offers["eval"].runs
    assert offers["eval"].lacking_parts["lm-eval"] == words
    assert not {"lm-eval", "mcp"} & offers["agent"].lacking_parts.keys()


def test_every_part_that_a_task_may_need_is_one_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `core/needs/parts.py` asks for and the registry does not know would be lacked by nobody, and refused in the middle."""
    monkeypatch.setattr("mloc.executors.parts.shutil.which", lambda name: f"/bin/{name}")
    training = {"report_to": [*TRACKERS], "zero_stage": 2}
    for task_type, executor in registry.BUILT_IN.items():
        for on_device in (False, True):
            given = {
                "taskType": task_type, "inference": {"engine": "vllm"}, "training": training,
                "model": {"config": {"load_in_4bit": True}, "adapter": {"type": "qlora"}},
                "eval": {"harness": "lm-eval", "tasks": ["arc_easy"]}, "agent": {"tools": ["retrieval", "mcp"]},
            }  # fmt: skip
            wanted = parts_of(decode_spec(json.dumps(given).encode()), on_device=on_device)
            assert bool(wanted) == (task_type != "echo")
            assert set(wanted) <= {part.name for part in executor.parts_here()}, task_type


def test_what_a_training_may_report_to_or_shard_by_is_lacked_with_one_command_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Executor, "missing", lambda _: [])
    monkeypatch.setattr(registry, "_is_installed", lambda name: False)
    (sft,) = [offer for offer in registry.available() if offer.task_type == "sft"]
    assert sft.lacking_parts == {
        **{name: f'training.report_to {name} needs {name}: pip install "mloc[trackers]"' for name in TRACKERS},
        "deepspeed": "training.deepspeed or zero_stage needs deepspeed: DS_BUILD_OPS=0 pip install deepspeed",
        "bitsandbytes": "weights of four or eight bits needs bitsandbytes: pip install bitsandbytes",
    }
    assert [part.lack for part in sft.parts if part.name == "energy"] == [
        'the energy of a training on NVIDIA devices needs pynvml: pip install "mloc[energy]"'
    ]


@pytest.mark.parametrize("vllm", [{}, {"max_model_len": 64}])
def test_types_whose_engine_placement_takes_for_the_same_share_a_host(vllm: dict[str, int]) -> None:
    named = {"source": {"type": "huggingface", "identifier": "m"}, "vllm": vllm}
    spec = json.dumps({"model": named, "retrieval": {"documents": ["d"], "embedding": {"model": "e"}}}).encode()
    families: dict[str, set[str]] = {}
    for offer in registry.available():
        if offer.task_type in registry.BUILT_IN:
            families.setdefault(engine_key(offer.task_type, spec, {}), set()).add(offer.family)
    assert len(families) > 5
    assert all(len(family) == 1 for family in families.values()), families
