"""Files and trees from elsewhere, through the cache: what a URL names, an archive of it unpacked, a folder of a published result."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import aiohttp
import msgspec

from mloc.services.artifacts.archive_streams import ArchiveRefused
from mloc.services.artifacts.archives import Limits, unpack
from mloc.services.clock import Clock
from mloc.services.results.manifest import File, Manifest
from mloc.services.transfers.download import Downloaded, Request, download, new_session
from mloc.services.transfers.input_cache import InputCache, Known
from mloc.services.transfers.results_api import ApiAddress
from mloc.services.transfers.transfer_errors import TransferError, shown_size, shown_url

QUIET_SEC, SAY_EACH_SEC = 2.0, 5.0

Say = Callable[[str], None]
_numbers = count()

# what a folder with a model may hold; a URL has no listing
_FILES_OF_A_MODEL = (
    "config.json", "adapter_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja", "preprocessor_config.json",
    "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TYPES = {
    "text/csv": ".csv", "text/tab-separated-values": ".tsv", "application/json": ".json", "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl", "application/x-jsonlines": ".jsonl", "application/vnd.apache.parquet": ".parquet", "text/plain": ".txt",
}  # fmt: skip


class RemoteFiles:
    """One worker's. `user` is whoever needs what was fetched, until `cache.release(user)`."""

    def __init__(self, cache: InputCache, clock: Clock, api: ApiAddress | None) -> None:
        self.cache = cache
        self.api = api
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def file(self, url: str, headers: Mapping[str, str], user: object, say: Say, suffix: str = "") -> Path:
        """The file behind a URL; `suffix` is its name's where neither URL nor server tell one. Raises TransferError, OSError."""
        key = _key(url)
        async with self._lock(key):
            known = self.cache.known(key)
            with self.cache.making(key) as new:
                came = await self._download(self._request(url, headers, known), new / "file", say)
                if known is not None and came.unchanged:
                    return _only(self.cache.use(known.content, user))
                name = _file_name(came, url, suffix)
                content = f"{came.sha256[:32]}-{name}"
                os.rename(new / "file", new / name)
                self.cache.keep(new, content)
                self.cache.note(key, Known(content, came.version))
                return self.cache.use(content, user) / name

    async def archive(self, url: str, headers: Mapping[str, str], user: object, say: Say) -> Path:
        """The folder that the archive behind a URL unpacks to."""
        key = _key("archive " + url)
        async with self._lock(key):
            known = self.cache.known(key)
            with self.cache.making(key) as new:
                came = await self._download(self._request(url, headers, known), new / "archive", say)
                if known is not None and came.unchanged:
                    return _model_in(self.cache.use(known.content, user))
                content = f"{came.sha256[:32]}.tree"
                if not self.cache.has(content):
                    say(f"unpacking {shown_size(came.size_bytes)} from {shown_url(url)}")
                    await asyncio.to_thread(_unpacked, new / "archive", new / "tree", self.cache.limit_bytes, url)
                    self.cache.keep(new / "tree", content)
                shutil.rmtree(new, ignore_errors=True)
                self.cache.note(key, Known(content, came.version))
                return _model_in(self.cache.use(content, user))

    async def local_archive(self, archive: Path, sha256: str, user: object) -> Path:
        """The folder that an archive on this disk unpacks to."""
        content = f"{sha256[:32]}.tree"
        async with self._lock(content):
            if not self.cache.has(content):
                new = self.cache.place_for_new(content)
                await asyncio.to_thread(_unpacked, archive, new / "tree", self.cache.limit_bytes, str(archive))
                self.cache.keep(new / "tree", content)
            return _model_in(self.cache.use(content, user))

    async def model_folder(self, url: str, headers: Mapping[str, str], user: object, say: Say) -> Path:
        """The files of a model below a URL that ends with a slash; it has no listing, so those that a model may have are asked for."""
        files: dict[str, Path] = {}
        for name in (*_FILES_OF_A_MODEL, *_WEIGHTS):
            if await self._add(files, url + name, name, headers, user, say) and name.endswith(".index.json"):
                shards = msgspec.json.decode(files[name].read_bytes(), type=_Index).weight_map.values()
                for shard in sorted(set(shards)):
                    if not re.fullmatch(r"[A-Za-z0-9._-]+", shard) or not await self._add(files, url + shard, shard, headers, user, say):
                        raise TransferError(f"{shown_url(url + name)} names {shard!r}, which is not there")
            if name == "adapter_config.json" and not files.keys() & {"config.json", "adapter_config.json"}:
                raise TransferError(f"{shown_url(url)} holds neither config.json nor adapter_config.json: it is no folder with a model")
        content = f"{_digest_of([(name, path.parent.name) for name, path in files.items()])}.tree"
        if not self.cache.has(content):
            new = self.cache.place_for_new(content)
            for name, path in files.items():
                if not (new / name).exists():
                    _link_or_copy(path, new / name)
            self.cache.keep(new, content)
        return self.cache.use(content, user)

    async def result_tree(self, task: str, below: Sequence[str], user: object, say: Say) -> Path | None:
        """A folder as RESULTS_DIR/<task> with those files of the result that lie at or below one of these names; None where it has none."""
        if self.api is None:
            return None
        wanted = [file for file in await self._files_of(task, say) if any(_is_at_or_below(file.path, name) for name in below)]
        if not wanted:
            return None
        content = f"{_digest_of([(f'{task}/{file.path}', file.sha256) for file in wanted])}.tree"
        async with self._lock(content):
            if not self.cache.has(content):
                self.cache.make_room(sum(file.size for file in wanted))
                new = self.cache.place_for_new(content)
                for file in wanted:
                    await self._result_file(task, file, new / task / file.path, say)
                self.cache.keep(new, content)
            return self.cache.use(content, user) / task

    async def fetch_to(self, url: str, target: Path, say: Say, sha256: str = "") -> None:
        """A file of the API to a place outside of the cache."""
        assert self.api is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        await self._download(Request(url, self.api.headers, sha256, is_of_api=True), target, say)

    async def small(self, url: str, say: Say) -> bytes:
        """What the API answers."""
        new = self.cache.place_for_new(f"small-{next(_numbers)}")
        try:
            await self.fetch_to(url, new / "answer", say)
            return (new / "answer").read_bytes()
        finally:
            shutil.rmtree(new, ignore_errors=True)

    # --- private ---

    async def _files_of(self, task: str, say: Say) -> list[File]:
        assert self.api is not None
        answer = await self.small(self.api.manifest(task), say)
        files = msgspec.json.decode(answer, type=_ManifestAnswer).manifest.files
        return [file for file in files if not file.path.startswith("/") and ".." not in Path(file.path).parts]

    async def _result_file(self, task: str, file: File, target: Path, say: Say) -> None:
        """One that is there came whole in an earlier try: files are renamed into place."""
        if not target.is_file():
            assert self.api is not None
            await self.fetch_to(self.api.file(task, file.path), target, say, file.sha256)

    async def _add(self, files: dict[str, Path], url: str, name: str, headers: Mapping[str, str], user: object, say: Say) -> bool:
        try:
            files[name] = await self.file(url, headers, user, say)
        except TransferError as error:
            if error.is_missing:
                return False
            raise
        return True

    async def _download(self, request: Request, target: Path, say: Say) -> Downloaded:
        if self._session is None:
            self._session = new_session()
        began = said = self._clock.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal said
            now = self._clock.monotonic()
            if now - began >= QUIET_SEC and (said == began or now - said >= SAY_EACH_SEC):
                of = f" of {shown_size(total)}" if total else ""
                say(f"fetching {shown_url(request.url)}: {shown_size(done)}{of}")
                said = now

        return await download(self._session, self._clock, request, target, progress)

    def _request(self, url: str, own: Mapping[str, str], known: Known | None) -> Request:
        is_of_api = self.api is not None and self.api.has(url)
        headers = {**(self.api.headers if self.api is not None and is_of_api else {}), **own}
        return Request(url, headers, "", self.cache.limit_bytes, known.version if known else None, is_of_api=is_of_api and not own)

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _ManifestAnswer(msgspec.Struct):
    manifest: Manifest


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest_of(pairs: list[tuple[str, str]]) -> str:
    return hashlib.sha256(msgspec.json.encode(sorted(pairs))).hexdigest()[:32]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _is_at_or_below(path: str, name: str) -> bool:
    return path == name or path.startswith(name.rstrip("/") + "/")


def _only(folder: Path) -> Path:
    return next(folder.iterdir())


def _file_name(came: Downloaded, url: str, suffix: str) -> str:
    """What the file is called here: by its ending a reader knows its format."""
    named = Path(urlsplit(url).path).name or came.file_name or "file"
    name = re.sub(r"[^A-Za-z0-9._-]", "_", named)[-80:].lstrip(".") or "file"
    if Path(name).suffix:
        return name
    served = Path(came.file_name).suffix
    return name + (served if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", served) else suffix or _TYPES.get(came.content_type, ""))


def _unpacked(archive: Path, target: Path, limit_bytes: int, url: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    try:
        unpack(archive, target, Limits(total_bytes=limit_bytes))
    except ArchiveRefused as error:
        shutil.rmtree(target.parent, ignore_errors=True)  # it would be the same next time
        raise TransferError(f"{shown_url(url)} cannot be unpacked: {error}") from error


def _model_in(folder: Path) -> Path:
    """Archives are often packed with the folder that the model lies in."""
    while not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            break
        folder = inside[0]
    return folder
