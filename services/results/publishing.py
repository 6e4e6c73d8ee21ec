"""Publish an attempt's folder: describe it, then move it into place as a whole. Right after a crash at any point, also when done twice."""

from __future__ import annotations

import contextlib
import os
import shutil
from itertools import count
from pathlib import Path

from msgspec import Struct

from mloc.services.durable_files import sync_folder, write_durably
from mloc.services.results.folders import ATTEMPTS, MANIFEST_FILE, RESULT_FILE, attempt_folder, sealed
from mloc.services.results.manifest import Origin, files_in, manifest_of


class Publish(Struct, frozen=True, tag=True, gc=False):
    """Move the folder of `origin`'s attempt to `folder`, below RESULTS_DIR. `result` is the inline one, where the folder has none."""

    origin: Origin
    folder: str
    result: bytes = b""


class Published(Struct, frozen=True, tag=True, gc=False):
    sha256: str = ""
    size_bytes: int = 0


class ResultMissing(OSError):
    """What the worker promised is not in RESULTS_DIR."""


def publish(root: Path, order: Publish) -> Published:
    """The end state: `folder` is the attempt's folder with a manifest, durably. Raises OSError, ResultMissing.

    A folder that is there already (an earlier failure of a task that was retried since) is put aside, not deleted.
    """
    origin = order.origin
    source, target = root / attempt_folder(origin.task, origin.attempt), root / order.folder
    _forget_progress(source.parent)
    if source.is_dir():
        _describe(source, order)
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(source, target, aside=root / ATTEMPTS / origin.task)
        sync_folder(source.parent)
    if sealed(target) != (origin.task, True, origin.attempt):
        raise ResultMissing(
            f"the result of attempt {origin.attempt} of {origin.task} is not in {root.resolve()}: the worker and the aggregator must see the "
            "same RESULTS_DIR"
        )
    sync_folder(target.parent)
    result = target / RESULT_FILE
    return Published(size_bytes=result.stat().st_size if result.is_file() else 0)


def _forget_progress(attempts: Path) -> None:
    """Rows and checkpoints that workers uploaded on the way have served."""
    for progress in (*attempts.glob("[0-9]*/rows"), *attempts.glob("[0-9]*/checkpoints")):
        shutil.rmtree(progress, ignore_errors=True)


def _describe(source: Path, order: Publish) -> None:
    if order.result and not (source / RESULT_FILE).is_file():
        write_durably(source / RESULT_FILE, [order.result])
    if sealed(source) is None:
        write_durably(source / MANIFEST_FILE, [manifest_of(order.origin, files_in(source), ok=True, folder=source)])


def _move(source: Path, target: Path, aside: Path) -> None:
    while True:
        try:
            os.rename(source, target)
            return
        except FileNotFoundError:  # another leader was faster
            return
        except OSError:
            if not target.is_dir():
                raise
            _put_aside(target, aside)


def _put_aside(target: Path, aside: Path) -> None:
    for number in count(1):
        place = aside / f"replaced-{number}"
        if place.exists():
            continue
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, place)
        return
