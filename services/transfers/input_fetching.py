"""Before an attempt: everything that its spec names elsewhere is brought onto this disk, so that its host only sees local paths.

The spec itself stays as it is (what stays warm is known by it); what was fetched is told beside it, as named in the spec → where it lies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.services.artifacts import inputs
from mloc.services.clock import Clock
from mloc.services.results.destination import Refused, resolve
from mloc.services.results.folders import ARTIFACTS, input_path
from mloc.services.transfers.places import Place, may_have_places, places_of
from mloc.services.transfers.remote_files import RemoteFiles, Say
from mloc.services.transfers.transfer_errors import TransferError

FINAL_WEIGHTS = ("final_lora", "final_model")
SHOWS_LATE_SEC = 5.0  # a shared folder over the network may show a new name late
_LOOK_AGAIN_SEC = 0.25
_ARTIFACT = re.compile(rf"/([^/.][^/]*)/({ARTIFACTS}/.+)$")


class Here(Struct):
    """What a host is told beside the spec. `fetched`: path or URL in the spec → path on this disk; `inputs` as references see them."""

    fetched: dict[str, str]
    inputs: dict[str, Any]


class InputFetcher:
    """`results_dir` is this worker's RESULTS_DIR, `allowed_roots` its ALLOWED_OUTPUT_ROOTS."""

    def __init__(self, results_dir: Path, remote: RemoteFiles, clock: Clock, allowed_roots: tuple[str, ...] = ()) -> None:
        self.results_dir = results_dir
        self.allowed_roots = allowed_roots
        self.remote = remote
        self.clock = clock

    async def fetch(self, user: object, encoded: bytes, inputs: Mapping[str, Any], say: Say, *, is_shared: bool) -> Here:
        """`is_shared`: whether the aggregator's RESULTS_DIR is the worker's. Raises TransferError for what is nowhere."""
        here = Here({}, dict(inputs))
        if may_have_places(encoded):
            spec = _decoded(encoded)
            for place in places_of(spec):
                try:
                    await _Bringing(self, user, place, here, say, is_shared).bring()
                except TransferError as error:
                    if error.retryable or not place.of_row:
                        raise
                    say(str(error))
            if spec.retrieval is not None and (store := spec.retrieval.path):
                here.fetched[store] = self._store_folder(store)
        return here

    def _store_folder(self, written: str) -> str:
        """Where a store of vectors is kept: by the rule of `output.destination.path`. Raises TransferError."""
        try:
            return str(resolve(self.results_dir, written, self.allowed_roots, task=""))
        except Refused as error:
            raise TransferError(f"retrieval.path {written!r} cannot be used: {error}") from error

    async def result_file(self, task: str) -> Path | None:
        """A copy of `responses.json` of a published task. Raises TransferError."""
        if self.remote.api is None:
            return None
        user = ("result", task)
        try:
            return await self.remote.file(self.remote.api.result(task), {}, user, _silent, ".json")
        finally:
            self.release(user)

    def release(self, user: object) -> None:
        """The attempt is over: the cache may throw out what it used."""
        self.remote.cache.release(user)

    async def close(self) -> None:
        await self.remote.close()


class _Bringing:
    """One place of a spec: of its alternatives the first that is there."""

    def __init__(self, fetcher: InputFetcher, user: object, place: Place, here: Here, say: Say, is_shared: bool) -> None:
        self._fetcher, self._user, self._place, self._here, self._say, self._is_shared = fetcher, user, place, here, say, is_shared
        self._root, self._remote, self._clock = fetcher.results_dir, fetcher.remote, fetcher.clock

    async def bring(self) -> None:
        place, failed = self._place, None
        for way in (self._path, self._task, self._url):
            try:
                if (local := await way()) is not None:
                    return await self._bring_base(local)
            except TransferError as error:
                if error.retryable:
                    raise
                failed = failed or error
            except OSError as error:
                raise TransferError(f"{place.where} cannot be fetched: {error.strerror}: {error.filename}", retryable=True) from error
        if failed is not None:
            raise TransferError(f"{place.where}: {failed}") from failed

    async def _bring_base(self, local: Path) -> None:
        """An adapter says which model it belongs to by the name that its trainer had it under."""
        config = local / "adapter_config.json"
        if self._place.kind != "weights" or not config.is_file():
            return
        base = msgspec.json.decode(config.read_bytes(), type=_AdapterConfig).base_model_name_or_path or ""
        where = f"{self._place.where}: the adapter's base model"
        place = Place(where, "weights", path=base) if base.startswith("/") else Place(where, "weights", url=base, headers=self._place.headers)
        await _Bringing(self._fetcher, self._user, place, self._here, self._say, self._is_shared).bring()

    # --- the alternatives; each gives what it found, None where it is not there ---

    async def _path(self) -> Path | None:
        """A path on this disk, or one that lies in the result of a task that this one knows."""
        path = self._place.path
        if not path:
            return None
        if (uploaded := inputs.named_in(path)) is not None:
            brought = await self._input(path, *uploaded)
            if str(brought) != path:
                self._here.fetched[path] = str(brought)
            return brought
        if self._is_there(Path(path)):
            return Path(path)
        if (found := self._in_a_result(path)) is None:
            return None
        task, below = found
        local = await self._of_result(task, below)
        if local is not None:
            self._here.fetched[path] = str(local)
        return local

    async def _task(self) -> Path | None:
        """The weights that a stage or a task made."""
        named = self._place.task or (self._place.stage if self._place.stage in self._here.inputs else "")
        if not named:
            return None
        given = self._here.inputs.get(named) or next((given for given in self._here.inputs.values() if given["task_id"] == named), None)
        task = given["task_id"] if given is not None else named
        names = [f"{ARTIFACTS}/{name}" for name in FINAL_WEIGHTS]
        folder = self._root / task
        if not any((folder / name).is_dir() for name in names):
            tree = await self._remote.result_tree(task, names, self._user, self._say)
            if tree is None:
                return None
            folder = tree
        self._tell_folder(task, folder)
        return next(folder / name for name in names if (folder / name).is_dir())

    async def _url(self) -> Path | None:
        place = self._place
        scheme = urlsplit(place.url).scheme
        if scheme not in ("http", "https"):
            return None
        ask, url, headers = self._remote, place.url, place.headers
        if place.kind == "file":
            local = await ask.file(url, headers, self._user, self._say, suffix=".jsonl" if place.where == "data.jsonl" else "")
        elif url.endswith("/"):
            local = await ask.model_folder(url, headers, self._user, self._say)
        else:
            local = await ask.archive(url, headers, self._user, self._say)
        self._here.fetched[url] = str(local)
        return local

    # --- what was uploaded for tasks ---

    async def _input(self, path: str, sha256: str, name: str) -> Path:
        """On a disk that this worker shares with the API, under the API's path or its own, else from the API. A folder came as an archive."""
        is_folder = name.endswith(inputs.FOLDER_SUFFIX) or self._place.kind == "weights"
        seen = next((at for at in (Path(path), self._root / input_path(sha256, name)) if at.is_file()), None)
        if seen is not None:
            return await self._remote.local_archive(seen, sha256, self._user) if is_folder else seen
        if self._remote.api is None:
            raise TransferError(f"{path} is not on this worker's disk: share RESULTS_DIR with the API, or set ORCHESTRATOR_BASE_URL")
        url = self._remote.api.input(sha256, name)
        return await (self._remote.archive if is_folder else self._remote.file)(url, {}, self._user, self._say)

    # --- results of other tasks ---

    def _in_a_result(self, path: str) -> tuple[str, str] | None:
        """(task, name below its result's folder) of a path that another worker wrote down: `…/<task>/<name>`."""
        for given in self._here.inputs.values():
            _, found, below = path.partition(f"/{given['task_id']}/")
            if found and below and ".." not in Path(below).parts:
                return given["task_id"], below
        found_artifacts = _ARTIFACT.search(path)
        return (found_artifacts[1], found_artifacts[2]) if found_artifacts and ".." not in Path(path).parts else None

    async def _of_result(self, task: str, below: str) -> Path | None:
        local = self._root / task / below
        deadline = self._clock.monotonic() + (SHOWS_LATE_SEC if self._is_shared else 0.0)
        while not self._is_there(local):
            if self._clock.monotonic() >= deadline:
                break
            await self._clock.sleep(_LOOK_AGAIN_SEC)
        else:
            return local
        if self._remote.api is None and not self._is_shared:
            raise TransferError(
                f"{below} of the result of {task} is not on this worker's disk: share RESULTS_DIR with the aggregator, or set ORCHESTRATOR_BASE_URL"
            )
        tree = await self._remote.result_tree(task, [below], self._user, self._say)
        return None if tree is None else tree / below

    def _tell_folder(self, task: str, folder: Path) -> None:
        """For whoever looks for that task's weights."""
        inputs = self._here.inputs
        for name in [name for name, given in inputs.items() if given["task_id"] == task] or [task]:
            inputs[name] = {**inputs.get(name, {"task_id": task, "result": {}}), "folder": str(folder)}

    def _is_there(self, path: Path) -> bool:
        try:
            return path.exists() if self._place.kind == "file" else path.is_dir()
        except OSError:
            return False


def _silent(line: str) -> None:
    return None


class _AdapterConfig(Struct):
    base_model_name_or_path: str | None = None


def _decoded(encoded: bytes) -> TaskSpec:
    try:
        return decode_spec(encoded)
    except msgspec.ValidationError as error:
        raise TransferError(f"this worker cannot read the task's spec ({error}): is it older than the intake?", retryable=True) from error
