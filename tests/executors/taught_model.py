"""A tiny model that was taught four answers, so that it gives them whatever a kernel rounds; and the same with quantized weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mloc.core.language.model_spec import ScratchSource

ANSWERS = {
    "What is one?": "a small number", "Name a dog": "brown fox hunter", "Where is it?": "over the lazy hill", "Who jumps?": "the quick fox",
}  # fmt: skip
SOURCE = ScratchSource(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=300, max_position_embeddings=512)
STEPS = 60
GROUP = 32  # weights with the same scale
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of eight numbers of four bits in one of 32

INT8 = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed", "ignore": ["lm_head"],
    "config_groups": {"all": {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    }},
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}


def teach(folder: Path) -> None:
    """Write the model and its tokenizer."""
    import torch

    from mloc.executors.models.scratch_model import make_scratch_model

    model, tokenizer = make_scratch_model(SOURCE, [*ANSWERS, *ANSWERS.values()])
    turns = [[{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] for asked, answer in ANSWERS.items()]
    batch = tokenizer.apply_chat_template(turns, padding=True, return_tensors="pt", return_dict=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores several would wait for each other, and for so small a model one is enough
    try:
        for _ in range(STEPS):
            loss = model(**batch, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.set_num_threads(threads)
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quantize(plain: Path, folder: Path, weights: Callable[[str, Any], dict[str, Any]], config: dict[str, Any]) -> None:
    """A copy whose projections are what `weights` makes of each (name without its end, float32 [out, in])."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(plain, folder)
    made: dict[str, Any] = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        made |= weights(name.removesuffix("weight"), tensor) if name.endswith("proj.weight") else {name: tensor}
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "quantization_config": config}))


def in_eight_bits(name: str, weight: Any) -> dict[str, Any]:
    """As compressed-tensors has them: a scale for each output."""
    import torch

    scale = weight.abs().amax(1, keepdim=True) / 127
    return {f"{name}weight": (weight / scale).round().to(torch.int8), f"{name}weight_scale": scale}


def in_four_bits(name: str, weight: Any) -> dict[str, Any]:
    """As AWQ has them (Lin et al. 2023, arXiv:2306.00978), without its search for better scales: scale and zero for each group of inputs."""
    grouped = weight.t().reshape(-1, GROUP, weight.shape[0])
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scale = ((high - low) / 15).half()
    zero = (-low / scale).round().clamp(0, 15)
    numbers = (grouped / scale[:, None] + zero[:, None]).round().clamp(0, 15).reshape(weight.t().shape)
    return {f"{name}qweight": _packed(numbers), f"{name}qzeros": _packed(zero), f"{name}scales": scale}


def _packed(numbers: Any) -> Any:
    import torch

    eights = numbers.to(torch.int64).reshape(numbers.shape[0], -1, 8)[:, :, AWQ_ORDER]
    words = sum(eights[:, :, place] << (4 * place) for place in range(8))
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
