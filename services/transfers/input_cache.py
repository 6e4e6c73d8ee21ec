"""The worker's cache of what it fetched: by content, bounded in size, the least recently used first to go, never what an attempt uses now.

    urls/<digest of the URL>.json       which content a URL had, and the version by which its server tells whether that has changed
    content/<digest>/…                  one file, or the tree that an archive or a folder of the API became; immutable once it is there
    new/…                               what is being made; left by a killed worker, gone on from or cleared away
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.services.transfers.download import Version

KEPT_UNFINISHED_SEC = 7 * 24 * 3600.0


class Known(Struct, frozen=True, omit_defaults=True):
    """What a URL had when it was last looked at."""

    content: str  # name of the folder in content/
    version: Version = Version()


class InputCache:
    """`folder` belongs to one worker. Sizes are kept in memory; all calls but `open` are quick."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._sizes: dict[str, int] = {}  # content → bytes, the least recently used first
        self._users: Counter[str] = Counter()
        self._used_by: dict[object, set[str]] = {}

    def open(self) -> None:
        """Look at what an earlier life left. Raises OSError."""
        for name in ("urls", "content", "new"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for left in (self.folder / "new").iterdir():
            if left.name.startswith("leaving-") or left.stat().st_mtime < time.time() - KEPT_UNFINISHED_SEC:
                shutil.rmtree(left, ignore_errors=True)
        found = sorted((self.folder / "content").iterdir(), key=lambda path: path.stat().st_mtime)
        self._sizes = {path.name: _size_of(path) for path in found}

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes.values())

    def known(self, url_key: str) -> Known | None:
        """What the URL had, where that is still here."""
        try:
            known = msgspec.json.decode(self._url(url_key).read_bytes(), type=Known)
        except (OSError, msgspec.MsgspecError):
            return None
        return known if known.content in self._sizes else None

    def note(self, url_key: str, known: Known) -> None:
        partial = self._url(url_key).with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(known))
        os.replace(partial, self._url(url_key))

    def has(self, content: str) -> bool:
        return content in self._sizes

    def use(self, content: str, user: object) -> Path:
        """The content's folder; it stays until `release(user)`."""
        self._sizes[content] = self._sizes.pop(content)  # the latest used
        if content not in (held := self._used_by.setdefault(user, set())):
            held.add(content)
            self._users[content] += 1
        path = self.folder / "content" / content
        os.utime(path)
        return path

    def release(self, user: object) -> None:
        self._users.subtract(self._used_by.pop(user, set()))

    def place_for_new(self, name: str) -> Path:
        """A folder to make content in; what a broken-off try left there can be gone on from."""
        path = self.folder / "new" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """`place_for_new`, which is gone after that where nothing was put there."""
        path = self.place_for_new(name)
        try:
            yield path
        finally:
            with suppress(OSError):  # what a broken-off try left stays
                path.rmdir()

    def make_room(self, more_bytes: int) -> None:
        """Throw out what nobody uses until `more_bytes` fit beside the rest, as far as that goes."""
        unused = [content for content in self._sizes if self._users[content] <= 0]
        while unused and self.size_bytes + more_bytes > self.limit_bytes:
            self._drop(unused.pop(0))

    def keep(self, made: Path, content: str) -> None:
        """Take a finished folder into the cache; one of the same content that is there already stays."""
        if content not in self._sizes:
            size = _size_of(made)
            self.make_room(size)
            os.rename(made, self.folder / "content" / content)
            self._sizes[content] = size
        else:
            shutil.rmtree(made, ignore_errors=True)

    def _drop(self, content: str) -> None:
        """Renamed before it is deleted: half a tree never counts as one."""
        leaving = self.folder / "new" / f"leaving-{content}"
        shutil.rmtree(leaving, ignore_errors=True)
        os.rename(self.folder / "content" / content, leaving)
        del self._sizes[content]
        shutil.rmtree(leaving, ignore_errors=True)

    def _url(self, url_key: str) -> Path:
        return self.folder / "urls" / f"{url_key}.json"


def _size_of(folder: Path) -> int:
    return sum((Path(at) / name).lstat().st_size for at, _, names in os.walk(folder) for name in names)
