"""A worker whose results folder nobody else sees: what it fetches before an attempt, and what is at the API before it tells of a success."""

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from far_world import TASKS, FarWorld, far_world
from worker_world import dispatch, stop

from mloc.core.events import AttemptFailed, AttemptSucceeded
from mloc.core.host_frames import RunTask, Succeeded
from mloc.services.callbacks.hosts import AllowedHosts
from mloc.services.clock import SystemClock
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.results.results_mark import MarkKeeper, SharedFolder
from mloc.services.transfers import attempt_files
from mloc.services.transfers.attempt_files import AttemptFiles
from mloc.services.transfers.destination_upload import HttpDestination, send_artifacts
from mloc.services.transfers.results_api import ApiAddress
from mloc.services.transfers.transfer_errors import TransferError
from tests.services.transfers.file_server import FileServer


def trained(frame: RunTask, **more: Any) -> Succeeded:
    """What a training leaves in its folder, and what its host says then."""
    folder = Path(frame.folder)
    (folder / "artifacts" / "final_model").mkdir(parents=True)
    (folder / "artifacts" / "final_model" / "config.json").write_text("{}")
    result = json.dumps({"ok": True, "final_model_path": f"{frame.final_folder}/artifacts/final_model", **more}).encode()
    (folder / "responses.json").write_bytes(result)
    return Succeeded(frame.task, frame.attempt, b"", hashlib.sha256(result).hexdigest(), len(result), files=True)


async def test_a_success_is_told_when_its_files_are_at_the_api(far: FarWorld, server: FileServer) -> None:
    # given an API that takes its time
    server.held_posts = asyncio.Event()
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    # when the host has the result
    far.host_of("t1").say(trained(frame))
    await far.until_true(lambda: any(request.method == "POST" for request in server.asked))
    # then nothing is told yet, and the host is free for another task
    assert await far.events("AttemptSucceeded") == []
    assert len(far.agent.runs) == 1
    # and when the files are there, it is
    server.held_posts.set()
    succeeded: AttemptSucceeded = await far.one("AttemptSucceeded")
    prefix = f"{TASKS}/t1/attempts/1/files/"
    names = {path.removeprefix(prefix) for path in server.files}
    assert names == {"responses.json", "artifacts/final_model/config.json", "artifacts/final_model.tar.gz"}
    assert hashlib.sha256(server.files[prefix + "responses.json"]).hexdigest() == succeeded.sha256
    result = json.loads(server.files[prefix + "responses.json"])
    assert result["final_model_archive_url"] == server.url("api/v1/results/t1/files/artifacts/final_model.tar.gz")
    assert not Path(frame.folder).exists()


async def test_a_training_set_is_named_by_its_path_at_the_api(far: FarWorld, server: FileServer) -> None:
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    far.host_of("t1").say(trained(frame, jsonl_export={"path": f"{frame.final_folder}/artifacts/set.jsonl", "rows": 1}))
    await far.one("AttemptSucceeded")
    result = json.loads(server.files[f"{TASKS}/t1/attempts/1/files/responses.json"])
    url = server.url("api/v1/results/t1/files/artifacts/set.jsonl")
    assert result["jsonl_export"] == {"path": "/of/the/api/t1/artifacts/set.jsonl", "url": url, "rows": 1}


async def test_an_api_that_is_away_is_waited_for(far: FarWorld, server: FileServer) -> None:
    server.refuse_posts = [503, 507, 500]
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    far.host_of("t1").say(trained(frame))
    await far.one("AttemptSucceeded")


async def test_a_delivery_that_is_refused_fails_for_a_person(far: FarWorld, server: FileServer) -> None:
    server.refuse_posts = [404] * 50
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    far.host_of("t1").say(trained(frame))
    failed: AttemptFailed = await far.one("AttemptFailed")
    assert failed.error.type == "DeliveryFailed"
    assert not failed.error.retryable
    assert "404" in failed.error.message


async def test_hours_of_training_wait_for_a_token_that_is_changed_in_one_service_after_the_other(
    far: FarWorld, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an API that has got another token, and soon the old one again
    monkeypatch.setattr(attempt_files, "REFUSED_PAUSE_SEC", 0.01)
    server.refuse_posts = [401, 401, 403]
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    # when the result is there, it is delivered in the end
    far.host_of("t1").say(trained(frame))
    await far.one("AttemptSucceeded")
    assert await far.events("AttemptFailed") == []
    assert server.refuse_posts == []


async def test_a_worker_that_stays_refused_says_what_to_do(tmp_path: Path, server: FileServer) -> None:
    server.refuse_posts = [401] * 50
    said: list[str] = []
    files = AttemptFiles(ApiAddress(server.url("").rstrip("/")), SystemClock(), refused_sec=0.05)
    (tmp_path / "file").write_text("x")
    try:
        with pytest.raises(TransferError, match=r"401.*Give the API and this worker the same ORCHESTRATOR_TOKEN, then retry the task") as raised:
            await files.put("t1", 1, "file", tmp_path / "file", said.append)
    finally:
        await files.close()
    assert not raised.value.retryable
    assert "is asked again" in said[0]


async def test_what_arrived_with_another_checksum_is_sent_again_and_refused_in_words_when_it_stays_so(far: FarWorld, server: FileServer) -> None:
    # given a network that changes bytes twice
    server.refuse_posts = [422, 422]
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    far.host_of("t1").say(trained(frame))
    # then the third try is as good as any
    await far.one("AttemptSucceeded")
    # but where it stays so, the attempt fails with the reason
    server.refuse_posts = [422] * 50
    await far.send(dispatch("t2", light=False))
    frame = await far.run_frame("t2")
    far.host_of("t2").say(trained(frame))
    failed: AttemptFailed = await far.one("AttemptFailed")
    assert failed.error.type == "DeliveryFailed"
    assert "could not be delivered to" in failed.error.message
    assert "422" in failed.error.message


async def test_a_stop_ends_a_delivery(far: FarWorld, server: FileServer) -> None:
    server.held_posts = asyncio.Event()
    await far.send(dispatch("t1", light=False))
    frame = await far.run_frame("t1")
    far.host_of("t1").say(trained(frame))
    await far.until_true(lambda: any(request.method == "POST" for request in server.asked))
    await far.send(stop("t1"))
    await far.one("AttemptStopped")
    assert len(far.agent.runs) == 0


async def test_a_stop_ends_a_fetch_before_any_host_was_asked(far: FarWorld, server: FileServer) -> None:
    server.files["rows.jsonl"] = b'{"a":1}\n' * 1_000_000
    server.held = asyncio.Event()
    data = {"type": "jsonl", "url": server.url("rows.jsonl")}
    await far.send(dispatch("t1", light=False, spec={"taskType": "sft", "data": data}))
    await far.until_true(lambda: server.asked)
    await far.send(stop("t1"))
    await far.one("AttemptStopped")
    assert not far.launcher.heavy


async def test_what_a_url_named_is_on_this_disk_when_the_host_is_asked(far: FarWorld, server: FileServer) -> None:
    server.files["rows.jsonl"] = b"{}\n"
    url = server.url("rows.jsonl")
    await far.send(dispatch("t1", light=False, spec={"taskType": "sft", "data": {"type": "jsonl", "url": url}}))
    frame = await far.run_frame("t1")
    assert Path(frame.fetched[url]).read_bytes() == b"{}\n"
    await far.send(dispatch("t2", light=False, spec={"taskType": "sft", "data": {"type": "jsonl", "url": server.url("missing.jsonl")}}))


async def test_a_file_that_is_nowhere_fails_the_attempt_for_a_person(far: FarWorld, server: FileServer) -> None:
    await far.send(dispatch("t1", light=False, spec={"taskType": "sft", "data": {"type": "jsonl", "url": server.url("missing.jsonl")}}))
    failed: AttemptFailed = await far.one("AttemptFailed")
    assert (failed.error.type, failed.error.retryable) == ("InputError", False)
    assert "404" in failed.error.message


async def test_a_training_without_any_way_out_fails_before_it_begins(tmp_path: Path) -> None:
    world = await far_world(tmp_path, None)
    try:
        await world.send(dispatch("t1", light=False, task_type="sft"))
        failed: AttemptFailed = await world.one("AttemptFailed")
        assert not failed.error.retryable
        assert "ORCHESTRATOR_BASE_URL" in failed.error.message
        assert not world.launcher.heavy
    finally:
        await world.close()


async def test_artifacts_go_to_an_http_destination_and_what_does_not_get_there_is_in_the_result(far: FarWorld, server: FileServer) -> None:
    other = FileServer()
    await other.start()
    try:
        other.refuse_posts = [400]
        destination = {"type": "http", "url": other.url("hook"), "headers": {"X-Key": "k"}}
        spec = {"taskType": "sft", "output": {"destination": destination}}
        await far.send(dispatch("t1", light=False, spec=spec))
        frame = await far.run_frame("t1")
        (Path(frame.folder) / "artifacts").mkdir(parents=True)
        (Path(frame.folder) / "artifacts" / "a.txt").write_text("a")
        far.host_of("t1").say(trained(frame))
        await far.one("AttemptSucceeded")
        assert list(other.files) == ["hook/t1/files/final_model.tar.gz"]
        assert set(other.statuses_asked_with("X-Key")) == {"k"}
        result = json.loads(server.files[f"{TASKS}/t1/attempts/1/files/responses.json"])
        assert [missed["name"] for missed in result["artifacts_not_sent"]] == ["a.txt"]
    finally:
        await other.close()


async def test_a_worker_that_sees_the_aggregators_mark_shares_its_folder(tmp_path: Path) -> None:
    # given an aggregator that shows its mark, in a folder that this worker has under another path
    (tmp_path / "results").mkdir()
    (tmp_path / "mount").symlink_to(tmp_path / "results")
    log = MemoryLog(MemoryServer(lambda: int(time.time() * 1000)))
    shared, apart = SharedFolder(tmp_path / "mount", log, SystemClock()), SharedFolder(tmp_path / "mine", log, SystemClock())
    assert await SharedFolder(tmp_path / "mine", log, SystemClock()).is_shared(), "without an aggregator nobody says otherwise"
    keeper = asyncio.ensure_future(MarkKeeper(tmp_path / "results", log, SystemClock()).run())
    async with asyncio.timeout(10):
        while not await log.results_mark():
            await asyncio.sleep(0.005)
    # then the worker sees it, and one with another folder does not
    assert await shared.is_shared()
    assert not await apart.is_shared()
    # and a new aggregator shows a new one
    keeper.cancel()
    before = await log.results_mark()
    keeper = asyncio.ensure_future(MarkKeeper(tmp_path / "results", log, SystemClock()).run())
    async with asyncio.timeout(10):
        while await log.results_mark() == before:
            await asyncio.sleep(0.005)
    assert await SharedFolder(tmp_path / "mount", log, SystemClock()).is_shared()
    keeper.cancel()


@pytest.mark.parametrize("url", ["http://169.254.169.254/x", "http://other.example.org/x"])
async def test_artifacts_go_only_where_the_operator_allows(tmp_path: Path, url: str) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "a.txt").write_text("a")
    missed = await send_artifacts(HttpDestination(url), "t", tmp_path, lambda text: None, SystemClock(), AllowedHosts(("example.com",)))
    assert [(one.name, "is not among CALLBACK_ALLOWED_HOSTS" in one.error) for one in missed] == [("a.txt", True)]
