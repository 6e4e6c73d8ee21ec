"""What the API tells of earlier attempts is what it can give; and what it gives is taken only whole."""

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mloc.core.host_frames import RunTask
from mloc.core.task import Task
from mloc.services.clock import SystemClock
from mloc.services.intake.task_files import find_attempt_file
from mloc.services.results.manifest import File
from mloc.services.transfers.input_cache import InputCache
from mloc.services.transfers.progress_uploads import Complete
from mloc.services.transfers.remote_files import RemoteFiles
from mloc.services.transfers.results_api import ApiAddress
from mloc.services.transfers.resuming import Left, LeftFiles, Resuming, left_files
from mloc.services.transfers.transfer_errors import TransferError
from tests.services.transfers.file_server import FileServer


def test_what_attempts_left_in_the_folder_and_what_was_uploaded_are_listed_and_can_be_had(tmp_path: Path) -> None:
    # given an attempt that ran in this folder, and one that was uploaded to it, and what is nobody's business
    of_task = tmp_path / ".attempts" / "t1"
    kept = {
        "rows/attempt-1.jsonl": (1, "rows/attempt-1.jsonl"),
        "1/artifacts/checkpoints/checkpoint-5/inner/w": (1, "artifacts/checkpoints/checkpoint-5/inner/w"),
        "2/rows/attempt-2.000000000000000.jsonl": (2, "rows/attempt-2.000000000000000.jsonl"),
        "2/checkpoints/checkpoint-9.files.json": (2, "checkpoints/checkpoint-9.files.json"),
    }
    for name in (*kept, "rows/attempt-x.jsonl", "1/artifacts/final_model/config.json", "2/checkpoints/checkpoint-9/w", "replaced-1/responses.json"):
        (of_task / name).parent.mkdir(parents=True, exist_ok=True)
        (of_task / name).write_text(name)
    # when it is asked for
    left = left_files(tmp_path, "t1")
    # then each that says how far an attempt was is named, with its size, and is to be had under that name
    assert {(file.attempt, file.name) for file in left} == set(kept.values())
    for path, (attempt, name) in kept.items():
        found = find_attempt_file(tmp_path, Task("t1", "echo"), attempt, name)
        assert found is not None
        assert found.path == of_task / path
    assert all(file.size for file in left)
    assert left_files(tmp_path, "t2") == []


class Uploaded:
    """Checkpoints of a first attempt at the API, and a worker that is to make the second."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.results = folder / "results"
        self.lines: list[str] = []
        self._files = server.files
        cache = InputCache(folder / "cache", 1 << 30)
        cache.open()
        self.remote = RemoteFiles(cache, SystemClock(), ApiAddress(server.url("").rstrip("/"), {}))
        self._left: list[Left] = []
        for step in (10, 20):
            files = {"model.safetensors": b"%d" % step * 1000, "inner/state": b"%d" % step}
            listed = Complete([File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()])
            self._files |= {self.path(step, f"/{name}"): content for name, content in files.items()}
            self._files[self.path(step, ".files.json")] = msgspec.json.encode(listed)
            self._left.append(Left(1, f"checkpoints/checkpoint-{step}.files.json", 1))
        self.tell()

    def path(self, step: int, name: str) -> str:
        return f"api/v1/tasks/t1/attempts/1/files/checkpoints/checkpoint-{step}{name}"

    def change(self, step: int, name: str, change: Callable[[bytes], bytes]) -> None:
        self._files[self.path(step, name)] = change(self._files[self.path(step, name)])

    def lose(self, step: int, name: str) -> None:
        del self._files[self.path(step, name)]
        self.tell()

    def tell(self) -> None:
        there = [left for left in self._left if f"api/v1/tasks/t1/attempts/1/files/{left.name}" in self._files]
        self._files["api/v1/tasks/t1/attempts/files"] = msgspec.json.encode(LeftFiles(there))

    async def bring(self, *, is_shared: bool = False) -> Path | None:
        """The checkpoint that the second attempt is given."""
        frame = RunTask(
            "t1", 2, "sft", b"{}", rows_folder=str(self.results / "rows"), checkpoint="/far/.attempts/t1/1/artifacts/checkpoints/checkpoint-20"
        )
        brought = await Resuming(self.results, self.remote).bring(frame, self.lines.append, is_shared=is_shared)
        return Path(brought.checkpoint) if brought.checkpoint else None


@pytest_asyncio.fixture
async def uploaded(tmp_path: Path, server: FileServer) -> AsyncIterator[Uploaded]:
    made = Uploaded(tmp_path, server)
    yield made
    await made.remote.close()


async def test_a_checkpoint_that_was_uploaded_is_had_whole(uploaded: Uploaded) -> None:
    found = await uploaded.bring()
    assert found is not None
    assert found.name == "checkpoint-20"
    assert {file.name: file.read_bytes() for file in found.rglob("*") if file.is_file()} == {"model.safetensors": b"20" * 1000, "state": b"20"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda uploaded: uploaded.change(20, "/model.safetensors", lambda content: content[:-100]),
        lambda uploaded: uploaded.change(20, "/model.safetensors", lambda content: content[:-1] + b"!"),
        lambda uploaded: uploaded.change(20, ".files.json", lambda content: content[:-10]),
        lambda uploaded: uploaded.lose(20, "/inner/state"),
        lambda uploaded: uploaded.lose(20, ".files.json"),
    ],
    ids=["cut off", "other bytes", "the list cut off", "a file is gone", "it was not all there yet"],
)
async def test_one_that_is_not_whole_at_the_api_is_not_taken_and_the_one_before_is(uploaded: Uploaded, damage: Callable[[Uploaded], None]) -> None:
    damage(uploaded)
    found = await uploaded.bring()
    assert found is not None
    assert (found / "model.safetensors").read_bytes() == b"10" * 1000
    assert "going on from checkpoint-10" in uploaded.lines


async def test_where_none_is_whole_it_begins_anew_and_says_so(uploaded: Uploaded) -> None:
    for step in (10, 20):
        uploaded.change(step, "/inner/state", lambda content: content[:-1])
    assert await uploaded.bring() is None
    assert any("checkpoint-20 of attempt 1 cannot be had whole" in line for line in uploaded.lines)
    assert uploaded.lines[-1] == "the checkpoint of the earlier attempt is not to be had; beginning anew"


async def test_what_was_fetched_before_and_was_damaged_since_is_fetched_again(uploaded: Uploaded) -> None:
    first = await uploaded.bring()
    assert first is not None
    (first / "model.safetensors").write_bytes(b"20" * 900)
    assert await uploaded.bring() == first
    assert (first / "model.safetensors").read_bytes() == b"20" * 1000


async def test_an_api_that_cannot_give_it_now_is_no_reason_to_begin_anew(uploaded: Uploaded, server: FileServer) -> None:
    server.on_request = lambda: server.refuse.append((401, {})) if server.asked[-1].path.endswith("model.safetensors") else None
    with pytest.raises(TransferError) as raised:
        await uploaded.bring()
    assert raised.value.retryable


async def test_in_a_shared_folder_the_training_itself_looks_beside_a_checkpoint_that_is_gone(uploaded: Uploaded) -> None:
    own = uploaded.results / ".attempts" / "t1" / "1" / "artifacts" / "checkpoints"
    assert await uploaded.bring(is_shared=True) is None
    (own / "checkpoint-30").mkdir(parents=True)
    assert await uploaded.bring(is_shared=True) == own / "checkpoint-20"
    assert uploaded.lines == ["the checkpoint of the earlier attempt is not to be had; beginning anew"]
