"""Files of a task as readers get them: in its result's tree, and before that where uploads lie until it is published."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.task import StoredFile, Task
from mloc.services.intake.published_results import file_in, result_folder
from mloc.services.results.folders import ARTIFACTS, MANIFEST_FILE, attempt_folder, final_folder
from mloc.services.results.manifest import Artifact, File, Manifest, is_named
from mloc.services.results.origins import wishes_of


class Found(Struct, frozen=True):
    path: Path
    sha256: str = ""  # where it is known


def find_file(results_dir: Path, id: str, task: Task | None, name: str) -> Found | None:
    """By its path in the result or its name among the artifacts. Raises UnsafePath."""
    folder = _folder(results_dir, id, task)
    manifest = _manifest(folder)
    digests = {file.path: file.sha256 for file in manifest.files} if manifest else {}
    for path in (name, f"{ARTIFACTS}/{name}"):
        if (file := file_in(folder, path)) is not None:
            return Found(file, digests.get(path, ""))
    stored = _stored_as(task, name.removeprefix(f"{ARTIFACTS}/")) if task is not None else None
    if task is None or stored is None:
        return None
    uploaded = results_dir / attempt_folder(task.id, stored.attempt) / ARTIFACTS / stored.name
    for place in (uploaded, folder / ARTIFACTS / stored.name):  # the tree may take it in meanwhile
        if place.is_file():
            return Found(place, stored.sha256)
    return None


def find_attempt_file(results_dir: Path, task: Task, attempt: int, name: str) -> Found | None:
    """By its path in an attempt's folder, which is the result's once it is published; rows lie beside it. Raises UnsafePath."""
    folder = results_dir / attempt_folder(task.id, attempt)
    if (file := file_in(folder, name)) is not None:
        return Found(file)
    if name.startswith("rows/") and (file := file_in(folder.parent, name)) is not None:
        return Found(file)
    if task.phase == "published" and task.result_attempt == attempt and (file := file_in(_folder(results_dir, task.id, task), name)):
        return Found(file)
    return None


def manifest_with_uploads(results_dir: Path, id: str, task: Task | None, spec: bytes = b"") -> Manifest | None:
    """The manifest as it will be once the tree has every upload; None where there is neither tree nor task."""
    found = _manifest(_folder(results_dir, id, task))
    if task is None:
        return found
    if found is None:
        declared = [Artifact(name, "missing") for name in wishes_of(spec).declared]
        found = Manifest(task.id, task.phase == "published", task.result_attempt, task.worker, task.result_id, None, {}, [], declared)
    known = {file.path for file in found.files}
    attempt = task.result_attempt or task.current or max((file.attempt for file in task.stored), default=0)
    uploads = [File(f"{ARTIFACTS}/{file.name}", file.size_bytes, file.sha256) for file in task.stored if file.attempt in (0, attempt)]
    files = [*found.files, *(file for file in uploads if file.path not in known)]
    artifacts = [
        replace(one, state="present") if one.state == "missing" and any(is_named(one.name, file.path) for file in uploads) else one
        for one in found.artifacts
    ]
    return replace(found, files=files, artifacts=artifacts)


def _folder(results_dir: Path, id: str, task: Task | None) -> Path:
    if task is not None and task.shard is not None:
        return results_dir / final_folder(id, is_shard=True)
    return result_folder(results_dir, id)


def _manifest(folder: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def _stored_as(task: Task, name: str) -> StoredFile | None:
    """The published attempt's; before there is one the running attempt's, then the newest."""
    wanted = task.result_attempt or task.current
    found = [file for file in task.stored if file.name == name and (not task.result_attempt or file.attempt in (0, wanted))]
    return max(found, key=lambda file: (file.attempt == wanted, file.attempt), default=None)
