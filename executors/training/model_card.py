"""The README.md of final weights: what they came from, on what and how they were trained, how that went, with which versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from mloc.core.language.spec import TaskSpec

LIBRARIES = ("transformers", "trl", "peft", "torch", "datasets", "tokenizers", "accelerate")
METHODS = {
    "sft": ("Supervised fine-tuning", ""), "lora_sft": ("Supervised fine-tuning of a low-rank adapter", "2106.09685"),
    "qlora": ("Supervised fine-tuning of a low-rank adapter on weights of four bits", "2305.14314"),
    "dpo": ("Direct preference optimisation", "2305.18290"), "kto": ("Kahneman-Tversky optimisation", "2402.01306"),
    "reward": ("A reward model from preferences", "2203.02155"), "ppo": ("Proximal policy optimisation", "1707.06347"),
    "grpo": ("Group-relative policy optimisation", "2402.03300"), "rloo": ("REINFORCE leave-one-out", "2402.14740"),
}  # fmt: skip
_SECRET = re.compile(r"token|secret|password|api_?key|header", re.IGNORECASE)
CURVES = ("loss", "reward", "kl", "rewards/margins", "accuracy", "eval_loss", "eval_reward")
_SHOWN = 8  # points of a curve


class Trained(Struct, frozen=True):
    """What a card tells. `result` is the `training` part of the task's result."""

    task: str
    task_type: str
    spec: TaskSpec
    model: str  # as results call the model that training began with
    rows: int
    held_out: int
    seed: int
    result: Mapping[str, Any]
    is_adapter: bool = False


def write_card(folder: Path, trained: Trained) -> None:
    """Write (or replace) README.md in the folder of the final weights."""
    (folder / "README.md").write_text(card(trained), encoding="utf-8")


def card(trained: Trained) -> str:
    """The card's text."""
    method, paper = METHODS.get(trained.task_type, (trained.task_type, ""))
    is_public = trained.model and not Path(trained.model).is_absolute() and trained.model != "scratch"
    head = {
        **({"base_model": trained.model} if is_public else {}), "library_name": "peft" if trained.is_adapter else "transformers",
        "tags": ["generated_from_trainer", trained.task_type],
    }  # fmt: skip
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False).strip() + "\n---",
        f"# {trained.model} after {trained.task_type}",
        f"{method}{f' ([arXiv:{paper}](https://arxiv.org/abs/{paper}))' if paper else ''} of `{trained.model}`, by the task `{trained.task}`.",
        "## Data\n\n" + _data(trained),
        "## Settings\n\n" + _table(_settings(trained)),
        "## How it went\n\n" + _table({name: value for name, value in trained.result.items() if isinstance(value, int | float | str)}),
        _curve(trained.result.get("history", [])),
        "## Versions\n\n" + _table(_versions()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(trained: Trained) -> str:
    data = trained.spec.data
    named = next((str(value) for name in ("identifier", "path", "url") if (value := getattr(data, name, None))), "")
    kind = type(data).__name__.removesuffix("Data").lower() if data is not None else "none"
    where = f" `{named.partition('?')[0]}`" if named else ", written in the task"
    split = f", split `{split}`" if (split := getattr(data, "split", None)) else ""
    kept = f"; {trained.held_out} others only to evaluate on" if trained.held_out else ""
    return f"{trained.rows} rows to learn from ({kind}{where}{split}){kept}."


def _settings(trained: Trained) -> dict[str, Any]:
    adapter = trained.spec.model.adapter
    given: dict[str, Any] = {"seed": trained.seed, **trained.spec.training}
    if trained.is_adapter and adapter is not None:
        given |= {"adapter.r": adapter.r, "adapter.lora_alpha": adapter.lora_alpha, "adapter.lora_dropout": adapter.lora_dropout}
    for reward in trained.spec.rewards:
        given[f"reward {reward.name or reward.type}"] = f"weight {reward.weight:g}"
    return {name: value for name, value in given.items() if not _SECRET.search(name)}


def _table(values: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in values.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else "None."


def _curve(history: list[dict[str, float]]) -> str:
    names = [name for name in CURVES if any(name in point for point in history)]
    points = [point for point in history if any(name in point for name in names)]
    if not names or not points:
        return ""
    stride = -(-len(points) // _SHOWN)
    shown = points[::-stride][::-1]
    rows = [f"| {point.get('step', ''):g} | " + " | ".join(f"{point[name]:.4g}" if name in point else "" for name in names) + " |" for point in shown]
    return "\n".join(["| step | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|", *rows])


def _versions() -> dict[str, str]:
    found = {}
    for name in ("mloc", *LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # the card does not name it
            continue
    return found
