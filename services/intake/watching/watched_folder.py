"""What lies in a watched folder, and which of it is whole: a file counts when it has not changed for a while and its text has an end."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from mloc.core.language.yaml_source import MAX_TEXT_BYTES
from mloc.services.intake.task_file import SUFFIXES

SETTLE_SEC = 1.0
UNENDED_FACTOR = 5  # a file without an end of line may be half of one
_UNFINISHED = ("~", ".partial", ".part", ".tmp", ".swp", ".swx", ".crdownload")


class Found(Struct, frozen=True):
    """A whole file. `mark` changes whenever the file does."""

    path: Path
    text: bytes
    digest: str
    mark: tuple[int, int, int]


class _Look(Struct):
    """What a file looked like, since when."""

    mark: tuple[int, int, int]
    since: float
    text: bytes | None = None


class WatchedFolder:
    """`tell(path, why)` is called once for each thing that is left alone."""

    def __init__(self, folder: Path, clock: Callable[[], float], tell: Callable[[str, str], None], settle_sec: float | None = None) -> None:
        self.folder = folder
        self._clock = clock
        self._tell = tell
        self._settle_sec = SETTLE_SEC if settle_sec is None else settle_sec
        self._looks: dict[Path, _Look] = {}
        self._ignored: dict[Path, str] = {}

    def look(self) -> tuple[list[Found], int]:
        """The whole files, by name, and how many may still be written. Raises OSError where the folder cannot be read."""
        found, unsettled = [], 0
        there = self._candidates()
        self._looks = {path: look for path, look in self._looks.items() if path in there}
        self._ignored = {path: why for path, why in self._ignored.items() if path.parent == self.folder and os.path.lexists(path)}
        for path in sorted(there):
            whole = self._whole(path, there[path])
            if whole is None:
                unsettled += path in self._looks
            else:
                found.append(whole)
        return found, unsettled

    def mark(self, path: Path) -> tuple[int, int, int] | None:
        """As the file is now; None where it is gone."""
        try:
            return _mark(path.stat())
        except OSError:
            return None

    def _candidates(self) -> dict[Path, os.stat_result]:
        there = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                path = self.folder / entry.name
                if entry.name.startswith((".", "#")) or entry.name.endswith(_UNFINISHED) or path.suffix not in SUFFIXES:
                    continue
                try:
                    status = entry.stat()
                except OSError as error:  # gone again, or a link to nothing
                    if entry.is_symlink():
                        self._ignore(path, f"it is a link to nothing ({error.strerror})")
                    continue
                if why := self._unfit(path, entry.is_symlink(), status):
                    self._ignore(path, why)
                else:
                    self._ignored.pop(path, None)
                    there[path] = status
        return there

    def _unfit(self, path: Path, is_link: bool, status: os.stat_result) -> str:
        if is_link and not path.resolve().is_relative_to(self.folder.resolve()):
            return "it is a link that leads out of the folder"
        if not stat.S_ISREG(status.st_mode):
            return "it is no plain file"
        if status.st_size > MAX_TEXT_BYTES:
            return f"it is {status.st_size:,} bytes long, a task file at most {MAX_TEXT_BYTES:,}"
        return ""

    def _ignore(self, path: Path, why: str) -> None:
        if self._ignored.get(path) != why:
            self._ignored[path] = why
            self._tell(str(path), why)

    def _whole(self, path: Path, status: os.stat_result) -> Found | None:
        now, mark = self._clock(), _mark(status)
        look = self._looks.get(path)
        if look is None or look.mark != mark:
            self._looks[path] = _Look(mark, now)
            return None
        if now - look.since < self._settle_sec:
            return None
        if look.text is None:
            try:
                with path.open("rb") as opened:
                    text = opened.read(MAX_TEXT_BYTES + 1)
                    if _mark(os.fstat(opened.fileno())) != mark:  # written meanwhile
                        return None
            except OSError as error:
                del self._looks[path]
                self._ignore(path, f"it cannot be read: {error.strerror}")
                return None
            look.text = text
        if not _has_end(look.text) and now - look.since < self._settle_sec * UNENDED_FACTOR:
            return None
        return Found(path, look.text, hashlib.sha256(look.text).hexdigest(), mark)


def _has_end(text: bytes) -> bool:
    """Whether the last line is one, and opens nothing."""
    return text.endswith((b"\n", b"}", b"]")) and not text.rstrip().endswith((b"---", b":"))


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
