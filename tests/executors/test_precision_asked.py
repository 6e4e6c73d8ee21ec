"""`model.config` says how weights are loaded, whichever engine loads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from mloc.core.language.model_spec import LocalSource, Model, ScratchSource
from mloc.core.language.passthrough_names import TRANSFORMERS
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.inference.vllm_settings import engine_arguments
from mloc.executors.models.model_loading import ACCEPTED, load_model, pretrained_settings
from mloc.executors.models.quantization import BITS, bits_asked, refuse_bits


def place(*devices: int) -> Context:
    folder = Path("/tmp")
    return Context(folder, folder, folder, {}, devices, None, None, 0, lambda: False, lambda _: None)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "float16"}, "float16"), ({"bf16": True}, "bfloat16"), ({"fp16": True, "bf16": False}, "float16"), ({"bf16": False}, "float32"),
    ],
)  # fmt: skip
def test_both_engines_load_weights_in_the_precision_that_is_asked_for(config: dict[str, Any], dtype: str) -> None:
    asked = TaskSpec("inference", model=Model(config=config))
    for devices in ((), (0,)):
        assert pretrained_settings(asked, place(*devices))["dtype"] == dtype
        assert engine_arguments(asked, place(*devices))["dtype"] == dtype


def test_no_name_is_known_to_the_language_that_the_worker_refuses() -> None:
    assert TRANSFORMERS.kinds.keys() <= {*ACCEPTED, *BITS}


def test_bits_are_followed_where_older_files_have_them_too() -> None:
    assert bits_asked(Model(transformers={"load_in_4bit": True})) == "load_in_4bit"
    assert bits_asked(Model(transformers={"load_in_8bit": False}, config={"load_in_8bit": True})) == ""
    assert pretrained_settings(TaskSpec("inference", model=Model(transformers={"load_in_4bit": True})), place()) == {"dtype": "float32"}


def test_fewer_bits_are_refused_where_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Model(ScratchSource(), config={"load_in_8bit": True})
    with pytest.raises(ExecutorError, match=r"load_in_8bit: such weights cannot be trained"):
        load_model(TaskSpec("sft", model=asked), place(), trainable=True)
    with pytest.raises(ExecutorError, match=r"load_in_8bit: a model that is made from scratch"):
        load_model(TaskSpec("inference", model=asked), place())
    with pytest.raises(ExecutorError, match=r"load_in_4bit: not here"):
        refuse_bits(Model(config={"load_in_4bit": True}), "not here")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExecutorError, match=r'bitsandbytes: pip install "mloc\[training\]"') as caught:
        load_model(TaskSpec("inference", model=asked), place())
    assert not caught.value.retryable


@pytest.mark.models
@pytest.mark.deep
@pytest.mark.parametrize(("name", "held"), [("load_in_4bit", "uint8"), ("load_in_8bit", "int8")])
def test_transformers_keeps_weights_in_the_bits_that_are_asked_for(name: str, held: str, random_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = Model(LocalSource(str(random_model)), config={name: True})
    loaded = load_model(TaskSpec("inference", model=model), place())
    linear = loaded.model.model.layers[0].mlp.up_proj
    assert str(linear.weight.dtype) == f"torch.{held}"
    import torch

    tokens = loaded.tokenizer("one fox", return_tensors="pt")
    assert torch.isfinite(loaded.model(input_ids=tokens["input_ids"]).logits).all()
