"""Write the trees of results that came inline in the log, and of failures: one folder and two files each, the manifest last.

Nothing is synced here: the log is the truth, and who calls goes back to it after a power cut.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.services.durable_files import replace_file, write_file
from mloc.services.results.destination import place
from mloc.services.results.folders import ARTIFACTS, MANIFEST_FILE, RESULT_FILE, sealed
from mloc.services.results.manifest import File, Manifest, Origin, file_of, manifest_of, with_files
from mloc.services.results.uploads import adopt_uploads

_OF_ONE_TREE = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.EINVAL)  # trying again cannot help


class Tree(Struct, frozen=True, omit_defaults=True, gc=False):
    """What goes into `folder`, below RESULTS_DIR. `is_written`: the folder is there with its manifest (it was moved or merged into place)."""

    origin: Origin
    folder: str
    result: bytes = b""
    ok: bool = True
    is_written: bool = False
    logs: tuple[tuple[str, bytes], ...] = ()  # files below logs/
    destination: str = ""  # where its task wants it besides


class WriteTrees(Struct, frozen=True, tag=True, gc=False):
    trees: tuple[Tree, ...]
    allowed_roots: tuple[str, ...] = ()


class Written(Struct, frozen=True, tag=True, gc=False):
    """Warnings are for people: a destination that was refused."""

    warnings: tuple[str, ...] = ()


def write_trees(root: Path, order: WriteTrees) -> Written:
    """Raises OSError; what was written before it stays, and is written again by a repeat."""
    warnings = []
    base = os.fspath(root)
    for tree in order.trees:
        try:
            _write(base, tree)
            if tree.ok:
                adopt_uploads(root, tree.origin.task, tree.folder)
            if tree.destination and (warning := place(root, tree.folder, tree.destination, order.allowed_roots)):
                warnings.append(f"{tree.origin.task}: {warning}")
        except OSError as error:
            if error.errno not in _OF_ONE_TREE:
                raise
            warnings.append(f"{tree.origin.task}: its result tree cannot be written ({error.strerror}: {error.filename}); the log has its result")
    return Written(tuple(warnings))


def _write(base: str, tree: Tree) -> None:
    folder = f"{base}/{tree.folder}"
    if tree.is_written and not os.path.isdir(folder):  # somebody cleared it away since
        return
    try:
        os.mkdir(folder)
    except FileExistsError:
        _write_again(folder, tree)
        return
    except FileNotFoundError:
        os.makedirs(folder)
    logs = _write_logs(folder, tree)
    write_file(f"{folder}/{RESULT_FILE}", tree.result)
    write_file(f"{folder}/{MANIFEST_FILE}", _manifest(tree, logs))


def _write_again(folder: str, tree: Tree) -> None:
    """The folder is there: from before a crash, or with an earlier outcome of the same task. A result is never replaced by a failure."""
    logs = _write_logs(folder, tree)
    if tree.is_written:
        if logs:
            replace_file(f"{folder}/{MANIFEST_FILE}", with_files(Path(f"{folder}/{MANIFEST_FILE}").read_bytes(), logs))
        return
    found = sealed(Path(folder))
    if not tree.ok and found is not None and found[1]:
        return
    uploads = _uploads_in(folder) if found == (tree.origin.task, tree.ok, tree.origin.attempt) else []
    replace_file(f"{folder}/{RESULT_FILE}", tree.result)
    replace_file(f"{folder}/{MANIFEST_FILE}", with_files(_manifest(tree, logs), uploads))


def _uploads_in(folder: str) -> list[File]:
    """What the tree took in beside the inline result, which has no files of its own."""
    known = msgspec.json.decode(Path(f"{folder}/{MANIFEST_FILE}").read_bytes(), type=Manifest)
    return [file for file in known.files if file.path.startswith(f"{ARTIFACTS}/")]


def _write_logs(folder: str, tree: Tree) -> list[File]:
    if not tree.logs:
        return []
    os.makedirs(f"{folder}/logs", exist_ok=True)
    for name, content in tree.logs:
        replace_file(f"{folder}/logs/{name}", content)
    return [file_of(f"logs/{name}", content) for name, content in tree.logs]


def _manifest(tree: Tree, logs: list[File]) -> bytes:
    return manifest_of(tree.origin, [*logs, file_of(RESULT_FILE, tree.result)], ok=tree.ok)
