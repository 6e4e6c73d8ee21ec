"""A compressed archive as a stream that only goes forward, with a bound on what one read may ask for and on how far it may blow up."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

import zstandard

Kind = Literal["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip"]

COPY_BYTES = 1 << 20  # the most that one read may ask for: a header that asks for more would fill memory
WINDOW_BYTES = 1 << 27  # memory that a decompressor may take
RATIO_FROM_BYTES = 64 << 20  # a small archive may be of any ratio
_MAGIC: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\x1f\x8b", "tar.gz"), (0, b"BZh", "tar.bz2"), (0, b"\xfd7zXZ\x00", "tar.xz"), (0, b"\x28\xb5\x2f\xfd", "tar.zst"),
    (0, b"PK\x03\x04", "zip"), (0, b"PK\x05\x06", "zip"), (257, b"ustar", "tar"),
)  # fmt: skip


class ArchiveRefused(Exception):
    """An archive that is damaged, too large or unsafe; nothing of it was kept."""


class TooLarge(ArchiveRefused):
    """It holds more than the limits take."""


def kind_of(archive: Path) -> Kind:
    """By its first bytes, not by its name. Raises ArchiveRefused, OSError."""
    with archive.open("rb") as file:
        head = file.read(265)
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    raise ArchiveRefused(f"{archive.name} is no archive of a kind that is known: tar (also .gz, .bz2, .xz, .zst) or zip")


class ForwardStream:
    """What tarfile reads from. `last` is what the last read gave. Reads raise TooLarge beyond `ratio`, and where one asks for too much."""

    def __init__(self, plain: IO[bytes], packed: BinaryIO, ratio: int) -> None:
        self._plain, self._packed, self._ratio = plain, packed, ratio
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self._position:
            raise ArchiveRefused("the archive wants to be read backwards")
        while self._position < position and self.read(min(COPY_BYTES, position - self._position)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= COPY_BYTES:
            raise TooLarge("the archive has a header that is larger than any file's name")
        pieces, missing = [], size
        while missing and (piece := self._plain.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        self.last = b"".join(pieces)
        self._position += len(self.last)
        if self._position > RATIO_FROM_BYTES and self._position > self._ratio * max(1, self._packed.tell()):
            raise TooLarge(f"the archive unpacks to more than {self._ratio} times its size")
        return self.last


@contextmanager
def forward_stream(archive: Path, kind: Kind, ratio: int) -> Iterator[ForwardStream]:
    """The tar inside an archive. Raises OSError."""
    with archive.open("rb") as packed, closing(_plain(packed, kind)) as plain:
        yield ForwardStream(plain, packed, ratio)


def _plain(packed: BinaryIO, kind: Kind) -> IO[bytes]:
    match kind:
        case "tar.gz":
            return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
        case "tar.bz2":
            return bz2.BZ2File(packed)
        case "tar.xz":
            return cast(IO[bytes], _Xz(packed))
        case "tar.zst":
            decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
            return cast(IO[bytes], decompressor.stream_reader(packed, read_across_frames=True, closefd=False))
        case _:
            return packed


class _Xz(io.RawIOBase):
    """As LZMAFile, which has no limit on memory."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._stream = lzma.LZMADecompressor(memlimit=WINDOW_BYTES)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._stream.eof:
                self._rest = self._stream.unused_data.lstrip(b"\0") or self._packed.read(COPY_BYTES).lstrip(b"\0")
                if not self._rest:
                    return b""
                self._stream = lzma.LZMADecompressor(memlimit=WINDOW_BYTES)
            elif self._stream.needs_input:
                self._rest = self._packed.read(1 << 16)
                if not self._rest:
                    raise EOFError("the compressed stream ends too early")
            piece, self._rest = self._stream.decompress(self._rest, size), b""
            if piece:
                return piece
