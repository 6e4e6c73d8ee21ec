"""Result trees as the aggregator leaves them, and stores to bring them to."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import msgspec

from mloc.services.mirror.object_store import StoreTrouble


def write_tree(results: Path, task: str, files: dict[str, bytes]) -> Path:
    """The manifest last."""
    tree = results / task
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    listed = [{"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()]
    facts = {"task_id": task, "ok": True, "attempt": 1, "worker": "w", "result_id": "", "seed": None, "versions": {}, "artifacts": []}
    (tree / "manifest.json").write_bytes(msgspec.json.encode({**facts, "files": listed}))
    return tree


class FlakyStore:
    """Keeps what it was brought. `fails` counts down the calls that are refused."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.brought: Counter[str] = Counter()
        self.contents: dict[str, dict[str, bytes]] = {}

    def bring(self, tree: Path, name: str) -> int:
        if self.fails:
            self.fails -= 1
            raise StoreTrouble(f"{name} cannot be written: no route to the store")
        self.brought[name] += 1
        self.contents[name] = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        return len(self.contents[name])
