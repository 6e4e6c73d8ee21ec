"""What was uploaded for a task, whichever attempt is published, becomes a part of its result's tree. Right after a crash at any point."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from mloc.services.durable_files import sync_folder, write_durably
from mloc.services.results.folders import ARTIFACTS, MANIFEST_FILE, attempt_folder, sealed
from mloc.services.results.manifest import File, Manifest, with_files


def has_uploads(root: Path, task: str) -> bool:
    """Whether something lies there that no result has taken."""
    return os.path.isdir(f"{root}/{attempt_folder(task, 0)}")


def adopt_uploads(root: Path, task: str, folder: str) -> None:
    """Move them below `folder`, and list them in its manifest. They stay where there is no such result (yet), and where it has another content
    under the same name. Raises OSError."""
    target = root / folder
    seal = sealed(target) if has_uploads(root, task) else None
    if seal is None or seal[:2] != (task, True):
        return
    source = root / attempt_folder(task, 0)
    manifest = (target / MANIFEST_FILE).read_bytes()
    listed = {file.path: file for file in msgspec.json.decode(manifest, type=Manifest).files}
    found = [_described(source, path) for path in _files(source / ARTIFACTS)]
    if new := [file for file in found if file.path not in listed and not is_taken(target, file.path)]:
        write_durably(target / MANIFEST_FILE, [with_files(manifest, new)])  # first: what it lists is found at its old place, too
    for file in found:
        if is_taken(target, file.path) or listed.get(file.path, file) != file:
            if listed.get(file.path) == file:
                (source / file.path).unlink()
            continue
        (target / file.path).parent.mkdir(parents=True, exist_ok=True)
        os.rename(source / file.path, target / file.path)
        sync_folder((target / file.path).parent)
    _remove_empty(source)


def is_taken(tree: Path, path: str) -> bool:
    """Whether something else has the name in a tree, or a part of it is a file there."""
    return (tree / path).exists() or any((tree / part).is_file() for part in Path(path).parents)


def _files(folder: Path) -> list[Path]:
    """Without those that are not whole yet."""
    return sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names if not name.startswith("."))


def _described(source: Path, path: Path) -> File:
    with path.open("rb") as file:
        return File(path.relative_to(source).as_posix(), os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _remove_empty(folder: Path) -> None:
    for at, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # an upload comes in meanwhile, or something stays
            os.rmdir(at)
    with contextlib.suppress(OSError):
        os.rmdir(folder.parent)
