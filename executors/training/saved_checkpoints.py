"""Checkpoints on disk: sealed with the digest of each file when they are written, and compared with that before a training goes on from one.

    artifacts/checkpoints/checkpoint-20/…  trainer_state.json  SHA256SUMS        `sha256sum -c SHA256SUMS` is what is done here
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from mloc.executors.durable_files import sync_tree, write_durably
from mloc.executors.training.best_weights import FOLDER as BEST

SEAL = "trainer_state.json"  # of transformers' trainer as of our PPO: the last that they write
SUMS = "SHA256SUMS"  # written when all else is durable; checkpoints of long ago have none
_NUMBERED = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> str:
    """Make a checkpoint durable, and what it is to be told later from what it has become. Returns the sha256 (hex) of the list of digests."""
    digests = sync_tree(folder)
    listed = "".join(f"{digest}  {name}\n" for name, digest in digests.items() if name != SUMS)
    return write_durably(folder / SUMS, [listed.encode()])[0]


def usable_checkpoint(newest: Path | None, attempts: Path) -> tuple[Path | None, list[str]]:
    """(checkpoint to go on from or None, what to say). Where files of the newest are damaged, cut off or missing, the next older one serves, of
    whichever attempt. Where all of it is gone, it may have made room for the one after it just before an end. `attempts`: the folder of all."""
    if newest is None:
        return None, []
    said: list[str] = []
    for folder in (newest, *_others(newest, attempts)):
        if (problem := _problem(folder)) is None:
            return folder, [*said, *([f"going on from {folder.name} instead"] if said else [])]
        said.append(f"the checkpoint {folder.name} cannot be gone on from: {problem}")
    return None, [*said, "training from the beginning: there is no checkpoint that is whole"]


def _others(newest: Path, attempts: Path) -> list[Path]:
    """Those that serve in its place and were finished, the furthest first. An attempt that could not go on from the newest begins at an older
    step: its own count too."""
    if (match := _NUMBERED.fullmatch(newest.name)) is None:
        return []
    is_gone = not newest.is_dir()
    beside = {*newest.parent.glob("checkpoint-*"), *attempts.glob("*/artifacts/checkpoints/checkpoint-*")}
    found = [(int(other[1]), str(path), path) for path in beside if (other := _NUMBERED.fullmatch(path.name)) and (path / SEAL).is_file()]
    return [path for step, _, path in sorted(found, reverse=True) if is_gone or step < int(match[1])]


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where each is as it was written."""
    if not folder.is_dir():
        return "it is gone"
    return _differing(folder) if (folder / SUMS).is_file() else _unreadable(folder)


def _differing(folder: Path) -> str | None:
    """By the list of digests. The best weights alone can be done without."""
    try:
        listed = {name: digest for digest, _, name in (line.partition("  ") for line in (folder / SUMS).read_text().splitlines())}
        for name, digest in listed.items():
            if not (path := folder / name).is_file():
                if not name.startswith(f"{BEST}/"):
                    return f"{name} is missing"
            elif _digest_of(path) != digest:
                return f"{name} is damaged: it has not the sha256 that is in {SUMS}"
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error}"
    return None if SEAL in listed else f"{SUMS} is cut off"


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(folder: Path) -> str | None:
    """Of a checkpoint without digests: what is cut off, or damaged in a way that its format shows."""
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
