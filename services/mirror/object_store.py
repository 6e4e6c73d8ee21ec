"""Object storage through fsspec: whole trees of results, each file once, the manifest last. All here blocks; callers use threads.

Keys, regions and endpoints are the store's own variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, …) or what the
machine's role gives: they are never part of a URL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from mloc.services.results.folders import MANIFEST_FILE
from mloc.services.results.manifest import UNLISTED, File, Manifest

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
_ON_DISK = ("file", "local")


class NoSuchStore(Exception):
    """The URL names a kind of store that cannot be used here; says what is missing."""


class StoreTrouble(Exception):
    """The store did not take something; trying again may help."""


class ObjectStore:
    """Below one URL. Nothing is asked of the store before the first tree. Raises NoSuchStore."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            self._fs, self._root = url_to_fs(url, **({"auto_mkdir": True} if scheme in _ON_DISK else {}))
        except ImportError as error:
            wanted = f"pip install 'mloc[object-storage]' {_PACKAGES.get(scheme, '')}".rstrip()
            raise NoSuchStore(f"{scheme}:// needs a package that is not installed ({error}): {wanted}") from error
        except ValueError as error:
            raise NoSuchStore(f"{scheme}:// is no kind of store that fsspec knows: {error}") from error

    def bring(self, tree: Path, name: str) -> int:
        """Make `<url>/<name>` hold what `tree` does; gives the number of files that were sent. Raises StoreTrouble, OSError for the tree."""
        own = (tree / MANIFEST_FILE).read_bytes()
        there = self._read(f"{name}/{MANIFEST_FILE}")
        if own == there:
            return 0
        known, wanted = _listed(there), _listed(own)
        sent = 0
        for path in _paths(tree):
            if path == MANIFEST_FILE or (path in known and known[path] == wanted.get(path)):
                continue
            self._send(tree / path, f"{name}/{path}")
            sent += 1
        self._write(f"{name}/{MANIFEST_FILE}", own)
        return sent + 1

    def _read(self, path: str) -> bytes | None:
        try:
            content: bytes = self._fs.cat_file(self._at(path))
            return content
        except FileNotFoundError:
            return None
        except Exception as error:  # each kind of store has its own
            raise _trouble("cannot be read", path, error) from error

    def _send(self, file: Path, path: str) -> None:
        size = file.stat().st_size  # a file that is gone is no trouble of the store
        try:
            self._fs.put_file(str(file), self._at(path))
        except Exception as error:
            raise _trouble(f"({size:,} bytes) cannot be written", path, error) from error

    def _write(self, path: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(self._at(path), content)
        except Exception as error:
            raise _trouble("cannot be written", path, error) from error

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


def _trouble(what: str, path: str, error: Exception) -> StoreTrouble:
    return StoreTrouble(f"{path} {what}: {str(error) or type(error).__name__}")


def _paths(tree: Path) -> list[str]:
    """Files below the tree; not what a killed writer left."""
    found: list[Any] = []
    for at, _, names in os.walk(tree):
        found += [(Path(at) / name).relative_to(tree).as_posix() for name in names if not name.endswith(UNLISTED)]
    return sorted(found)


def _listed(manifest: bytes | None) -> dict[str, File]:
    """What a manifest says of its files."""
    try:
        return {file.path: file for file in msgspec.json.decode(manifest, type=Manifest).files} if manifest else {}
    except msgspec.MsgspecError:
        return {}
