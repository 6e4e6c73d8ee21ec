"""Unpack an archive that may be hostile into a new folder: whole or not at all, nothing outside of it, within limits.

Nothing is written through a link, because none is ever made: members are written by hand as plain files into a fresh folder of which only
plain names are accepted. A link inside the archive to another of its files becomes a second name of that file; any other link refuses the
archive, as do devices, absolute names, `..`, names that come twice and passwords.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard
from msgspec import Struct

from mloc.services.artifacts.archive_streams import COPY_BYTES, RATIO_FROM_BYTES, ArchiveRefused, Kind, TooLarge, forward_stream, kind_of
from mloc.services.artifacts.names import UnsafeName, safe_member

_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, ValueError, NotImplementedError, RecursionError,
)  # fmt: skip
_LONGEST_LINK = 4096


class Limits(Struct, frozen=True):
    """What an archive may hold."""

    total_bytes: int = 256 << 30
    files: int = 100_000  # folders and links count, too
    ratio: int = 500  # unpacked to packed size, of archives that unpack to more than 64 MiB


class Unpacked(Struct, frozen=True):
    kind: Kind
    files: int
    size_bytes: int


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> Unpacked:
    """Unpack into `target`, which must not be there (or be empty) and appears whole. Raises ArchiveRefused, OSError."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(mode=0o700)
    try:
        unpacking = _Unpacking(partial, limits or Limits())
        kind = kind_of(archive)
        _carry_out(unpacking, archive, kind)
        unpacking.make_links()
        partial.chmod(0o755)
        os.rename(partial, target)
        return Unpacked(kind, unpacking.files, unpacking.size_bytes)
    except UnsafeName as error:
        raise ArchiveRefused(f"{archive.name}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _carry_out(unpacking: _Unpacking, archive: Path, kind: Kind) -> None:
    try:
        (_unpack_zip if kind == "zip" else _unpack_tar)(unpacking, archive, kind)
    except _DAMAGED as error:
        raise ArchiveRefused(f"{archive.name} is damaged or cut off: {error}") from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 say so what is wrong with their bytes
            raise ArchiveRefused(f"{archive.name} is damaged or cut off: {error}") from error
        raise


class _Unpacking:
    """The folder that is filled, and what it holds so far."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.files = 0
        self.size_bytes = 0
        self._folder, self._limits = folder, limits
        self._made: set[str] = {""}  # folders
        self._members: set[str] = set()
        self._links: dict[str, str] = {}  # name → the file it is another name of

    def count(self, declared_bytes: int) -> None:
        """One more member, which says to be so large. Raises TooLarge."""
        self.files += 1
        if self.files > self._limits.files:
            raise TooLarge(f"the archive has more than {self._limits.files:,} members")
        self._fits(declared_bytes)

    def folder(self, name: str) -> None:
        if name in self._members:
            raise ArchiveRefused(f"the archive has {name!r} as a file and as a folder")
        if name in self._made:
            return
        self.folder(name.rpartition("/")[0])
        (self._folder / name).mkdir()
        self._made.add(name)

    def file(self, name: str, executable: bool, read: Callable[[int], bytes]) -> None:
        """Write what `read` gives; a declared size is not believed."""
        self._take(name)
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o755 if executable else 0o644)
        with os.fdopen(descriptor, "wb") as file:
            while piece := read(COPY_BYTES):
                self._fits(len(piece))
                self.size_bytes += len(piece)
                file.write(piece)

    def link(self, name: str, target: str) -> None:
        """`target` is relative to the archive's root."""
        self._take(name)
        self._links[name] = target

    def make_links(self) -> None:
        for name in self._links:
            target, steps = self._links[name], 0
            while target in self._links and (steps := steps + 1) <= len(self._links):
                target = self._links[target]
            if target not in self._members or target in self._links:
                raise ArchiveRefused(f"the link {name!r} leads to {target!r}, which is no file of the archive")
            os.link(self._folder / target, self._folder / name)

    def _take(self, name: str) -> None:
        if not name or name in self._members or name in self._made:
            raise ArchiveRefused(f"the archive has {name!r} twice" if name else "the archive replaces its own root")
        self.folder(name.rpartition("/")[0])
        self._members.add(name)

    def _fits(self, more: int) -> None:
        if more < 0 or self.size_bytes + more > self._limits.total_bytes:
            raise TooLarge(f"the archive unpacks to more than {self._limits.total_bytes:,} bytes")

    @property
    def ratio(self) -> int:
        return self._limits.ratio

    @property
    def longest_directory(self) -> int:
        """Bytes of a zip's list of members."""
        return self._limits.files * 256


# --- tar ---


def _unpack_tar(unpacking: _Unpacking, archive: Path, kind: Kind) -> None:
    with forward_stream(archive, kind, unpacking.ratio) as stream, tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            unpacking.count(member.size if member.isreg() else 0)
            _unpack_member(unpacking, tar, member)
            tar.members = []  # it would keep them all
        if any(stream.last) or not stream.last:
            raise ArchiveRefused(f"{archive.name} is cut off: its end mark is missing")
        while stream.read(COPY_BYTES):  # to the end: the compressor's own checksum stands there
            pass


def _unpack_member(unpacking: _Unpacking, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = safe_member(member.name)
    if member.issparse():
        raise ArchiveRefused(f"{member.name!r} is a sparse file, which is not unpacked")
    if member.isdir():
        unpacking.folder(name)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        unpacking.file(name, bool(member.mode & 0o100), _exactly(content, member.size))
    elif member.islnk():
        unpacking.link(name, safe_member(member.linkname))
    elif member.issym():
        unpacking.link(name, _beside(name, member.linkname))
    else:
        raise ArchiveRefused(f"{member.name!r} is a device or a pipe")


def _exactly(content: IO[bytes], size: int) -> Callable[[int], bytes]:
    missing = size

    def read(most: int) -> bytes:
        nonlocal missing
        piece = content.read(min(most, missing))
        if missing and not piece:
            raise EOFError("a member ends too early")
        missing -= len(piece)
        return piece

    return read


def _beside(name: str, target: str) -> str:
    """What a symbolic link at `name` leads to, relative to the root. Raises UnsafeName."""
    if target.startswith("/"):
        raise UnsafeName(f"the link {name!r} leads to an absolute path, {target[:120]!r}")
    parts = list(PurePosixPath(name).parent.parts)
    for part in target.split("/"):
        if part == "..":
            if not parts:
                raise UnsafeName(f"the link {name!r} leads out of its folder, to {target[:120]!r}")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return safe_member("/".join(parts))


# --- zip ---


def _unpack_zip(unpacking: _Unpacking, archive: Path, kind: Kind) -> None:
    _check_directory_size(archive, unpacking)
    packed = archive.stat().st_size
    with zipfile.ZipFile(archive) as container:
        for info in container.infolist():
            unpacking.count(info.file_size)
            _unpack_info(unpacking, container, info)
            if unpacking.size_bytes > max(RATIO_FROM_BYTES, unpacking.ratio * packed):
                raise TooLarge(f"the archive unpacks to more than {unpacking.ratio} times its size")


def _unpack_info(unpacking: _Unpacking, container: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    name, mode = safe_member(info.filename), info.external_attr >> 16
    if info.flag_bits & 1:
        raise ArchiveRefused(f"{info.filename!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveRefused(f"{info.filename!r} is compressed in a way that is not unpacked")
    if info.is_dir():
        unpacking.folder(name)
        return
    with container.open(info) as content:
        if stat.S_ISLNK(mode):
            unpacking.link(name, _beside(name, content.read(_LONGEST_LINK).decode()))
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ArchiveRefused(f"{info.filename!r} is a device or a pipe")
        else:
            unpacking.file(name, bool(mode & 0o100), content.read)


def _check_directory_size(archive: Path, unpacking: _Unpacking) -> None:
    """zipfile reads the list of members into memory as a whole, before anything can be counted."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if size > unpacking.longest_directory:
        raise TooLarge("the archive's list of members is too long")
