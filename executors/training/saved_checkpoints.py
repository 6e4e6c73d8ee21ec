"""Which checkpoint of an earlier attempt a training goes on from: the newest one whose files are whole."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

SEAL = "trainer_state.json"  # of transformers' trainer as of our PPO: it is written last
_NUMBERED = re.compile(r"checkpoint-(\d+)")


def usable_checkpoint(newest: Path | None) -> tuple[Path | None, list[str]]:
    """(checkpoint to go on from or None, what to say). An older one beside it serves where files of the newest are cut off or missing."""
    if newest is None:
        return None, []
    said: list[str] = []
    for folder in (newest, *_older(newest)):
        if not (folder / SEAL).is_file():
            continue  # it was never finished
        if (problem := _problem(folder)) is None:
            return folder, [*said, *([f"going on from {folder.name} instead"] if said else [])]
        said.append(f"the checkpoint {folder.name} cannot be gone on from: {problem}")
    return None, [*said, "training from the beginning: there is no checkpoint that is whole"]


def _older(newest: Path) -> list[Path]:
    match = _NUMBERED.fullmatch(newest.name)
    if match is None or not newest.parent.is_dir():
        return []
    found = [(int(other[1]), path) for path in newest.parent.iterdir() if (other := _NUMBERED.fullmatch(path.name))]
    return [path for step, path in sorted(found, reverse=True) if step < int(match[1])]


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where each can be read."""
    try:
        state: Any = json.loads((folder / SEAL).read_text())
        if not isinstance(state, dict) or "global_step" not in state:
            return f"{SEAL} does not say how far it is"
    except (OSError, ValueError) as error:
        return f"{SEAL}: {error}"
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(str(path), framework="pt") as tensors:  # compares what the head says with the file's length
                    tensors.keys()
            elif path.suffix in (".pt", ".pth", ".bin") and path.name != "training_args.bin":
                with zipfile.ZipFile(path) as parts:
                    if (broken := parts.testzip()) is not None:
                        return f"{path.name}: {broken} is damaged"
        except Exception as error:  # safetensors has an exception of its own for each library
            return f"{path.name}: {error}"
    return None
