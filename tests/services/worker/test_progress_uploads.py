"""What an attempt has so far, of a worker whose results folder nobody else sees: told of when it is at the API, and there for the next attempt."""

import asyncio
import hashlib
import json
from pathlib import Path

from far_world import TASKS, FarWorld
from worker_world import dispatch

from mloc.core.events import CheckpointSaved, Error, RowsCompleted
from mloc.core.host_frames import CheckpointDone, Failed, RowsDone
from mloc.services.transfers.progress_uploads import piece_name
from tests.services.transfers.file_server import FileServer


async def test_rows_are_told_of_when_their_piece_is_at_the_api(far: FarWorld, server: FileServer) -> None:
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    part = Path(frame.rows_folder) / "attempt-1.jsonl"
    part.parent.mkdir(parents=True)
    part.write_bytes(b'{"index":0}\n{"index":1}\n')
    far.host_of("t1").say(RowsDone("t1", 1, "attempt-1.jsonl", 2, "x"))
    first: RowsCompleted = await far.one("RowsCompleted")
    assert (first.part, first.rows) == (piece_name("attempt-1.jsonl", 0), 2)
    assert server.files[f"{TASKS}/t1/attempts/1/files/rows/{first.part}"] == part.read_bytes()
    # and when the attempt fails, also rows that its host had no time to tell of
    with part.open("ab") as more:
        more.write(b'{"index":2}\n{"ind')
    far.host_of("t1").say(Failed("t1", 1, Error("X", "x")))
    await far.one("AttemptFailed")
    assert server.files[f"{TASKS}/t1/attempts/1/files/rows/{piece_name('attempt-1.jsonl', 24)}"] == b'{"index":2}\n'


async def test_a_checkpoint_is_told_of_when_it_is_complete_at_the_api_though_its_trainer_deletes_it(far: FarWorld, server: FileServer) -> None:
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    server.held_posts = asyncio.Event()
    checkpoint = Path(frame.folder) / "artifacts" / "checkpoints" / "checkpoint-5"
    (checkpoint / "inner").mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    (checkpoint / "inner" / "w").write_bytes(b"weights")
    far.host_of("t1").say(CheckpointDone("t1", 1, 5, str(checkpoint), "s"))
    await far.until_true(lambda: any(request.method == "POST" for request in server.asked))
    assert await far.events("CheckpointSaved") == []
    for file in (checkpoint / "inner" / "w", checkpoint / "trainer_state.json"):
        file.unlink()
    server.held_posts.set()
    saved: CheckpointSaved = await far.one("CheckpointSaved")
    prefix = f"{TASKS}/t1/attempts/1/files/checkpoints/checkpoint-5"
    assert (saved.step, saved.path) == (5, str(checkpoint))
    assert server.files[f"{prefix}/inner/w"] == b"weights"
    listed = {file["path"] for file in json.loads(server.files[f"{prefix}.files.json"])["files"]}
    assert listed == {"trainer_state.json", "inner/w"}


async def test_a_later_attempt_gets_the_rows_and_the_checkpoint_that_an_earlier_one_uploaded(far: FarWorld, server: FileServer) -> None:
    # given what a first attempt on another worker left at the API: of its rows the third piece, but not the second
    files = {
        "rows/" + piece_name("attempt-1.jsonl", 0): b'{"index":0}\n', "rows/" + piece_name("attempt-1.jsonl", 999): b'{"index":9}\n',
        "checkpoints/checkpoint-5/trainer_state.json": b"{}",
    }  # fmt: skip
    digest = hashlib.sha256(b"{}").hexdigest()
    files["checkpoints/checkpoint-5.files.json"] = json.dumps({"files": [{"path": "trainer_state.json", "size": 2, "sha256": digest}]}).encode()
    server.files |= {f"{TASKS}/t1/attempts/1/files/{name}": content for name, content in files.items()}
    left = [{"attempt": 1, "name": name, "size": len(content)} for name, content in files.items()]
    server.files[f"{TASKS}/t1/attempts/files"] = json.dumps({"files": left}).encode()
    # when this worker makes the second
    path = "/far/results/.attempts/t1/1/artifacts/checkpoints/checkpoint-5"
    await far.send(dispatch("t1", attempt=2, light=False, checkpoint=path))
    frame = await far.run_frame("t1")
    # then both are on its disk
    assert (Path(frame.rows_folder) / "attempt-1.jsonl").read_bytes() == b'{"index":0}\n'
    assert (Path(frame.checkpoint) / "trainer_state.json").read_bytes() == b"{}"


async def test_a_later_attempt_gets_what_one_left_that_ran_in_the_apis_own_folder(far: FarWorld, server: FileServer) -> None:
    # given rows and a checkpoint as a worker that shares the folder wrote them, and rows of an attempt that is to come
    checkpoint = "artifacts/checkpoints/checkpoint-5"
    files = {
        "1/files/rows/attempt-1.jsonl": b'{"index":0}\n', "1/files/rows/attempt-7.jsonl": b'{"index":9}\n',
        f"1/files/{checkpoint}/trainer_state.json": b"{}", f"1/files/{checkpoint}/inner/w": b"weights",
        "1/files/artifacts/checkpoints/checkpoint-4/w": b"older",
    }  # fmt: skip
    server.files |= {f"{TASKS}/t1/attempts/{name}": content for name, content in files.items()}
    left = [{"attempt": 7 if "-7" in name else 1, "name": name.removeprefix("1/files/"), "size": len(content)} for name, content in files.items()]
    server.files[f"{TASKS}/t1/attempts/files"] = json.dumps({"files": left}).encode()
    # when this worker, which does not, makes the next attempt
    await far.send(dispatch("t1", attempt=2, light=False, checkpoint=f"/far/results/.attempts/t1/1/{checkpoint}"))
    frame = await far.run_frame("t1")
    # then it has the rows and all of that checkpoint
    assert [path.name for path in Path(frame.rows_folder).iterdir()] == ["attempt-1.jsonl"]
    assert (Path(frame.rows_folder) / "attempt-1.jsonl").read_bytes() == b'{"index":0}\n'
    assert (Path(frame.checkpoint) / "trainer_state.json").read_bytes() == b"{}"
    assert (Path(frame.checkpoint) / "inner" / "w").read_bytes() == b"weights"


async def test_a_checkpoint_that_never_became_complete_is_ignored(far: FarWorld, server: FileServer) -> None:
    server.files[f"{TASKS}/t1/attempts/files"] = b'{"files": []}'
    await far.send(dispatch("t1", attempt=2, light=False, checkpoint="/far/.attempts/t1/1/artifacts/checkpoints/checkpoint-5"))
    assert (await far.run_frame("t1")).checkpoint == ""
