"""Which files of a watched folder were submitted: lines that are only appended, beside the files, so that every watcher of the folder reads them.

    .mloc-watch.jsonl      {"path", "digest", "number", "to", "ids"}, and {"path", …, "leaves": inode} before a file is moved away

A submission's key is made of path, text and the number of versions before it: who is killed between submitting and noting it computes the
same key again, and gets the first tasks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

RECORD = ".mloc-watch.jsonl"


class Note(Struct, frozen=True, omit_defaults=True):
    """One version of a file that was submitted. `leaves`: the inode of the file when it was about to be moved away; 0 where it stays."""

    path: str
    digest: str
    number: int
    to: str
    ids: list[str] = []
    leaves: int = 0


class WatchRecord:
    """`to` names the MLOC that is submitted to: another one has not seen these files."""

    def __init__(self, file: Path, to: str) -> None:
        self._file = file
        self._to = to
        self._latest: dict[str, Note] = {}
        self._read_to = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """One watcher at a time between looking a file up and noting it; False where another one is at it now."""
        with self._file.open("ab") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            self._read()
            yield True

    def latest(self, path: str) -> Note | None:
        """Of what was noted of this file, the last."""
        return self._latest.get(path)

    def key(self, path: str, digest: str) -> str:
        """The idempotency key of the next version of this file."""
        known = self._latest.get(path)
        return "watch-" + hashlib.sha256(f"{path}\0{digest}\0{known.number + 1 if known else 1}".encode()).hexdigest()[:40]

    def note(self, path: str, digest: str, ids: list[str]) -> None:
        """Durable when this returns. Raises OSError."""
        known = self._latest.get(path)
        self._append(Note(path, digest, known.number + 1 if known else 1, self._to, ids))

    def note_leaving(self, note: Note, inode: int) -> None:
        """The file is about to be moved away: one that comes there later is another. Durable when this returns."""
        self._append(msgspec.structs.replace(note, leaves=inode))

    def _append(self, note: Note) -> None:
        with self._file.open("r+b") as opened:
            end = opened.seek(0, os.SEEK_END)
            torn = b""
            if end:
                opened.seek(end - 1)
                torn = b"" if opened.read(1) == b"\n" else b"\n"  # of one who was killed in the middle
            opened.write(torn + msgspec.json.encode(note) + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
        self._latest[note.path] = note

    def _read(self) -> None:
        with self._file.open("rb") as opened:
            opened.seek(self._read_to)
            text = opened.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(msgspec.MsgspecError):
                note = msgspec.json.decode(line, type=Note)
                if note.to == self._to:
                    self._latest[note.path] = note
