"""`output.destination.path`: where a task wants its result besides RESULTS_DIR/<task>, as far as that is safe.

The result of record stays under the task's id; files on the same file system are linked, others copied.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mloc.services.durable_files import staged
from mloc.services.results.folders import ATTEMPTS, BLOBS, CACHE, INPUTS, MANIFEST_FILE, UPLOADS, sealed


class Refused(Exception):
    """The path is not one that results may go to; says why."""


def place(root: Path, folder: str, destination: str, allowed_roots: tuple[str, ...]) -> str:
    """Put the files of the tree `folder` also at `destination`, the manifest last. Returns a warning where it is refused, else "".

    Raises OSError where it cannot be written.
    """
    try:
        target = resolve(root, destination, allowed_roots, task=folder.partition("/")[0])
    except Refused as error:
        return f"output.destination.path {destination!r} is not used: {error}; the result is in {root / folder}"
    source = root / folder
    files = [Path(at) / name for at, _, names in os.walk(source) for name in names]
    for file in sorted(files, key=lambda file: file.name == MANIFEST_FILE):
        _put(file, target / file.relative_to(source))
    return ""


def resolve(root: Path, destination: str, allowed_roots: tuple[str, ...], task: str) -> Path:
    """The absolute folder that a destination means. Raises Refused."""
    home = root.resolve()
    target = Path(os.path.normpath(home / destination))
    real = Path(os.path.realpath(target))  # links could lead out
    roots = [home, *(Path(allowed).resolve() for allowed in allowed_roots)]
    if not any(real.is_relative_to(allowed) for allowed in roots):
        where = "RESULTS_DIR" if not Path(destination).is_absolute() else "RESULTS_DIR and ALLOWED_OUTPUT_ROOTS"
        raise Refused(f"it leads out of {where}")
    if real == home or any(real.is_relative_to(home / kept) for kept in (ATTEMPTS, BLOBS, CACHE, UPLOADS, INPUTS)):
        raise Refused("it is where MLOC keeps the results of all tasks")
    if real.is_relative_to(home):
        owner = real.relative_to(home).parts[0]
        seal = sealed(home / owner)
        if owner == task or (seal is not None and seal[0] == owner):
            raise Refused(f"it lies in the result of {owner}")
    return real


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged(target) as partial:  # it also removes it where both are one file already: then a rename does nothing
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)
