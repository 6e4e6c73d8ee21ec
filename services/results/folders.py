"""Where results lie below RESULTS_DIR. Paths here are relative to it, as texts: they are made for every task.

    <task>/{responses.json, manifest.json, logs/, artifacts/}       what is published; the manifest is written last
    <parent>/shards/<i>/…                                           what the shards of a task add to it
    .attempts/<task>/<attempt>/…                                    what an attempt writes; moved as a whole when it is published
    .attempts/<task>/0/artifacts/                                   what was uploaded for the task; its tree takes it in once it is published
    .inputs/<sha256>/<name>                                         what was uploaded for tasks that name it; `.used-<task>` beside it: who does
    .cache/                                                         what can be made again, kept for later tasks (indexes of documents)
    .blobs/, .uploads/                                              uploaded content by its sha256, and what has arrived of it so far
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mloc.core.task import Task

ATTEMPTS = ".attempts"
BLOBS = ".blobs"
UPLOADS = ".uploads"
INPUTS = ".inputs"
CACHE = ".cache"
ARTIFACTS = "artifacts"
RESULT_FILE = "responses.json"
MANIFEST_FILE = "manifest.json"


class _Seal(msgspec.Struct):
    """What a manifest says of whose result it is."""

    task_id: str = ""
    ok: bool = True
    attempt: int = 0


_decode_seal = msgspec.json.Decoder(_Seal).decode


def attempt_folder(task: str, attempt: int) -> str:
    return f"{ATTEMPTS}/{task}/{attempt}"


def input_path(sha256: str, name: str) -> str:
    """Of an input of tasks that are submitted after it was uploaded."""
    return f"{INPUTS}/{sha256}/{name}"


def final_folder(task: str, *, is_shard: bool = False) -> str:
    """Where the task's published result lies. A shard `<parent>.s<i>` has its place in its parent's folder."""
    if not is_shard:
        return task
    parent, _, number = task.rpartition(".s")
    return f"{parent}/shards/{number}"


def sealed(folder: Path) -> tuple[str, bool, int] | None:
    """(task, ok, attempt) of the complete tree in `folder`; None where there is none."""
    try:
        seal = _decode_seal((folder / MANIFEST_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    return seal.task_id, seal.ok, seal.attempt


def is_tree_complete(results_dir: Path, task: Task) -> bool:
    """Whether the tree of an ended (or dead-lettered) task is there, and is that of its present outcome."""
    seal = sealed(results_dir / final_folder(task.id, is_shard=task.shard is not None))
    if seal is None:
        return False
    _, ok, attempt = seal
    return ok and attempt == task.result_attempt if task.phase == "published" else not ok
