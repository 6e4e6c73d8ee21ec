"""Pack a folder into an archive whose bytes depend on its files alone: their names in order, their content, whether they may be executed."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

import zstandard

from mloc.services.artifacts.archive_streams import COPY_BYTES, ArchiveRefused
from mloc.services.durable_files import staged, sync_folder

Format = Literal["tar.gz", "tar.zst", "zip"]
SUFFIXES: dict[str, Format] = {".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar.zst": "tar.zst", ".zip": "zip"}
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


def pack(folder: Path, archive: Path, format: Format | None = None) -> int:
    """Pack what is below `folder`; the archive appears whole, durably. Returns its size in bytes.

    The format follows the archive's name where none is given. A link to a file inside the folder is packed as that file. Raises
    ArchiveRefused for a link that leads out or a thing that is no file, ValueError for another name, OSError.
    """
    chosen = format or format_of(archive.name)
    files = list(_files(folder))
    archive.parent.mkdir(parents=True, exist_ok=True)
    with staged(archive) as partial, partial.open("wb") as out:
        if chosen == "zip":
            _pack_zip(out, files)
        else:
            _pack_tar(out, files, chosen)
        out.flush()
        os.fsync(out.fileno())
        size = out.tell()
    sync_folder(archive.parent)
    return size


def format_of(name: str) -> Format:
    """Raises ValueError."""
    for suffix, format in SUFFIXES.items():
        if name.endswith(suffix):
            return format
    raise ValueError(f"{name!r} says no archive format; it takes {', '.join(SUFFIXES)}")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, file), in order of names; empty folders are left out."""
    root = folder.resolve(strict=True)
    found = [Path(at) / name for at, folders, names in os.walk(root) for name in (*names, *(f for f in folders if (Path(at) / f).is_symlink()))]
    for path in sorted(found, key=lambda path: path.relative_to(root).as_posix().encode()):
        real = path.resolve()
        if not real.is_relative_to(root) or not stat.S_ISREG(os.stat(real).st_mode):
            raise ArchiveRefused(f"{path} is not packed: it is no file of {folder}")
        yield path.relative_to(root).as_posix(), real


def _pack_tar(out: BinaryIO, files: list[tuple[str, Path]], format: Format) -> None:
    with _compressed(out, format) as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = status.st_size, _mode(status), 0
                tar.addfile(info, file)


@contextmanager
def _compressed(out: BinaryIO, format: Format) -> Iterator[IO[bytes]]:
    if format == "tar.gz":
        with gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=6, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    else:
        with zstandard.ZstdCompressor(level=3).stream_writer(out, closefd=False) as writer:
            yield cast(IO[bytes], writer)


def _pack_zip(out: BinaryIO, files: list[tuple[str, Path]]) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as container:
        for name, path in files:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                info = zipfile.ZipInfo(name, _ZIP_EPOCH)
                info.external_attr, info.compress_type, info.create_system = (stat.S_IFREG | _mode(status)) << 16, zipfile.ZIP_DEFLATED, 3
                info.file_size = status.st_size
                with container.open(info, "w") as member:
                    while piece := file.read(COPY_BYTES):
                        member.write(piece)


def _mode(status: os.stat_result) -> int:
    return 0o755 if status.st_mode & 0o100 else 0o644
