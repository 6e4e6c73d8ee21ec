"""`manifest.json`: whose result a folder holds, every file with size and sha256, and each declared artifact as present or missing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.core.needs.seed import seed_of
from mloc.services.results.folders import ARTIFACTS, MANIFEST_FILE

UNLISTED = (".partial",)  # what a killed writer left

ARCHIVES = {f"{name}_archive": f"{name}.tar.gz" for name in ("final_model", "final_lora")}  # what results call them → the files


class Origin(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where a result comes from, and what its task declared to be in it."""

    task: str
    attempt: int = 0
    worker: str = ""
    result_id: str = ""  # entry of the log
    versions: dict[str, str] = {}
    seed: int | None = None  # as the task states it; else the one that its id gives
    declared: tuple[str, ...] = ()  # names or globs of artifacts


class File(Struct, frozen=True, gc=False):
    path: str  # relative to the folder
    size: int  # bytes
    sha256: str


class Artifact(Struct, frozen=True, gc=False):
    name: str
    state: str  # present or missing


class Manifest(Struct, frozen=True, gc=False):
    task_id: str = ""
    ok: bool = True
    attempt: int = 0
    worker: str = ""
    result_id: str = ""
    seed: int | None = None  # what its random numbers began with
    versions: dict[str, str] = {}
    files: list[File] = []
    artifacts: list[Artifact] = []


_encode = msgspec.json.Encoder().encode


def manifest_of(origin: Origin, files: list[File], *, ok: bool, folder: Path | None = None) -> bytes:
    """The manifest's bytes; declared artifacts are looked for in `folder`, all missing without one."""
    declared = [Artifact(name, "present" if folder is not None and has_artifact(folder, name) else "missing") for name in origin.declared]
    seed = seed_of(origin.task) if origin.seed is None else origin.seed
    return _encode(
        Manifest(origin.task, ok, origin.attempt, origin.worker, origin.result_id, seed, origin.versions, files, declared)
    )


def with_files(manifest: bytes, files: list[File]) -> bytes:
    """The manifest with these files added, in place of what it says of the same paths. Raises msgspec.MsgspecError."""
    known = msgspec.json.decode(manifest, type=Manifest)
    new = {file.path for file in files}
    artifacts = [
        Artifact(one.name, "present") if any(is_named(one.name, file.path) for file in files) else one for one in known.artifacts
    ]
    return _encode(
        msgspec.structs.replace(known, files=[*(file for file in known.files if file.path not in new), *files], artifacts=artifacts)
    )


def file_of(path: str, content: bytes) -> File:
    return File(path, len(content), hashlib.sha256(content).hexdigest())


def files_in(folder: Path) -> list[File]:
    """Every file below the folder but the manifest, in order of names. Reads them all."""
    found = []
    for path in _walk(folder):
        relative = path.relative_to(folder).as_posix()
        if relative == MANIFEST_FILE or relative.endswith(UNLISTED):
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append(File(relative, os.fstat(file.fileno()).st_size, digest))
    return found


def has_artifact(folder: Path, name: str) -> bool:
    """Whether a declared name or glob is in the result, at its top or among the artifacts, its shards' included."""
    wanted = ARCHIVES.get(name, name).strip("/")
    if not wanted or ".." in Path(wanted).parts or Path(name).is_absolute():
        return False
    return any(next(place.glob(wanted), None) is not None for place in _places(folder))


def is_named(name: str, path: str) -> bool:
    """Whether a declared name or glob means the file at `path` of a result, or a folder that it lies in."""
    wanted = ARCHIVES.get(name, name).strip("/").split("/")
    parts = path.split("/")
    for start in (parts, parts[1:] if parts[0] == ARTIFACTS else []):
        if len(start) >= len(wanted) and all(fnmatchcase(part, pattern) for part, pattern in zip(start, wanted, strict=False)):
            return True
    return False


def _places(folder: Path) -> Iterable[Path]:
    yield folder
    yield folder / ARTIFACTS
    for shard in sorted((folder / "shards").glob("*")):
        yield shard
        yield shard / ARTIFACTS


def _walk(folder: Path) -> list[Path]:
    return sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names if not (Path(at) / name).is_symlink())
