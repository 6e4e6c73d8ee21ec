"""Files of tasks over HTTP: stored once, whole or not at all, resumable, checked."""

import asyncio
import gzip
import io
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from mloc.core.events import TaskDispatched
from mloc.services.artifacts import uploading
from mloc.services.artifacts.store import LOCK, Store
from mloc.services.results.folders import attempt_folder
from tests.services.intake.conftest import WORKER, Api, serving
from tests.services.intake.file_requests import CONTENT, announced, got, put, sha


def stored_files(api: Api) -> list[Path]:
    """Every file below RESULTS_DIR that holds some of a content, each inode once."""
    seen = {}
    for path in sorted(api.results.rglob("*")):
        if path.is_file() and path.suffix != ".json" and path.name != LOCK:
            seen.setdefault(path.stat().st_ino, path)
    return list(seen.values())


async def test_an_upload_is_stored_answered_logged_and_served_before_the_task_ends(api, task):
    answer = await put(api, task, "model/weights.bin", **announced(CONTENT))
    assert (answer["ok"], answer["name"], answer["size_bytes"], answer["sha256"]) == (True, "model/weights.bin", len(CONTENT), sha(CONTENT))
    assert answer["path"] == str(api.results / task / "artifacts" / "model" / "weights.bin")
    assert await got(api, URL(answer["url"]).path) == CONTENT
    for name in ("model/weights.bin", "artifacts/model/weights.bin"):
        assert await got(api, f"/api/v1/tasks/{task}/files/{name}") == CONTENT
    assert api.logged().count("ArtifactStored") == 1
    manifest = (await (await api.get(f"/api/v1/results/{task}/files")).json())["manifest"]
    assert manifest["files"] == [{"path": "artifacts/model/weights.bin", "size": len(CONTENT), "sha256": sha(CONTENT)}]


async def test_the_same_file_again_changes_nothing_and_another_one_is_refused(api, task):
    first = await put(api, task, "a.bin")
    assert await put(api, task, "a.bin", status=200) == first
    assert await put(api, task, "a.bin", status=200, **announced(CONTENT)) == first
    refused = await put(api, task, "a.bin", b"other", status=409)
    assert (refused["error"]["code"], api.logged().count("ArtifactStored")) == ("name_taken", 1)
    assert (await put(api, task, "a.bin", b"other", status=409, **announced(b"other")))["error"]["code"] == "name_taken"
    assert await got(api, f"/api/v1/results/{task}/files/a.bin") == CONTENT
    # the same content under another name, of another task: the bytes are there once
    other = (await api.submit())["task_id"]
    await put(api, other, "b.bin")
    assert len([path for path in stored_files(api) if path.read_bytes() == CONTENT]) == 1


async def test_each_attempt_has_files_of_its_own(api, task):
    await put(api, task, "model.bin", b"first", query="?attempt=1")
    assert (await put(api, task, "model.bin", b"second", 409, "?attempt=2"))["error"]["code"] == "no_such_attempt"
    await api.append(TaskDispatched(task=task, attempt=2, **WORKER))
    await put(api, task, "notes.txt", b"of the task")
    await put(api, task, "model.bin", b"first", 200, "?attempt=1")
    # files of an attempt's own folder, for a worker that does not see it
    path = f"/api/v1/tasks/{task}/attempts/1/files/responses.json"
    response = await api.post(path, b'{"ok": true}', headers=announced(b'{"ok": true}'))
    answer = await response.json()
    assert (response.status, answer["path"]) == (201, str(api.results / attempt_folder(task, 1) / "responses.json"))
    assert await got(api, path) == b'{"ok": true}'
    assert (await api.get(f"/api/v1/tasks/{task}/attempts/2/files/responses.json")).status == 404
    assert api.logged().count("ArtifactStored") == 2


@pytest.mark.parametrize("form", ["form", "raw"])
async def test_a_wrong_checksum_stores_nothing(api, task, form):
    data = aiohttp.FormData({"file": io.BytesIO(CONTENT)}) if form == "form" else CONTENT
    response = await api.post(f"/api/v1/results/{task}/files/a.bin", data, headers={"X-Content-SHA256": sha(b"other")})
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (422, "wrong_content")
    assert sha(CONTENT) in error["message"]
    assert sha(b"other") in error["message"]
    assert stored_files(api) == []
    assert "ArtifactStored" not in api.logged()
    assert (await api.get(f"/api/v1/results/{task}/files/a.bin")).status == 404


async def test_a_form_is_as_good_as_the_raw_body(api, task):
    form = aiohttp.FormData()
    form.add_field("note", "hello")
    form.add_field("file", io.BytesIO(CONTENT), filename="../../evil")
    response = await api.post(f"/api/v1/results/{task}/files/a.bin", form, headers={"X-Content-SHA256": sha(CONTENT)})
    assert (response.status, (await response.json())["sha256"]) == (201, sha(CONTENT))
    response = await api.post(f"/api/v1/results/{task}/files/b.bin", aiohttp.FormData({"data": io.BytesIO(b"x")}))
    assert (await response.json())["error"]["code"] in ("no_file", "unreadable_body")


async def test_an_upload_in_pieces_goes_on_where_it_was(api, task):
    url = f"/api/v1/results/{task}/files/a.bin"
    headers = {**announced(CONTENT), "Upload-Complete": "?0", "Upload-Length": str(len(CONTENT))}
    response = await api.post(url, CONTENT[:1000], headers=headers)
    place = response.headers["Location"]
    assert (response.status, response.headers["Upload-Offset"]) == (201, "1000")
    # asking for it again finds it
    response = await api.post(url, headers=headers)
    assert (response.headers["Location"], response.headers["Upload-Offset"]) == (place, "1000")
    # another byte is refused with the one that is due
    response = await api.client.patch(place, data=CONTENT[7:], headers={"Upload-Offset": "7"})
    assert (response.status, response.headers["Upload-Offset"]) == (409, "1000")
    response = await api.client.patch(place, data=CONTENT[1000:2000], headers={"Upload-Offset": "1000", "Upload-Complete": "?0"})
    assert (response.status, response.headers["Upload-Offset"]) == (204, "2000")
    response = await api.client.head(place)
    assert (response.status, response.headers["Upload-Offset"], response.headers["Upload-Complete"]) == (204, "2000", "?0")
    assert response.headers["Upload-Length"] == str(len(CONTENT))
    response = await api.client.patch(place, data=CONTENT[2000:], headers={"Upload-Offset": "2000"})
    answer = await response.json()
    assert (response.status, answer["sha256"]) == (201, sha(CONTENT))
    # whoever did not hear that asks again
    response = await api.client.head(place)
    assert (response.headers["Upload-Complete"], response.headers["Upload-Offset"]) == ("?1", str(len(CONTENT)))
    response = await api.client.patch(place, headers={"Upload-Offset": str(len(CONTENT))})
    assert (response.status, await response.json()) == (200, answer)
    response = await api.post(url, headers=headers)  # and whoever begins anew need not send a byte
    assert (response.status, response.headers["Upload-Complete"], await response.json()) == (200, "?1", answer)
    assert await got(api, url) == CONTENT
    assert api.logged().count("ArtifactStored") == 1


async def test_a_connection_that_breaks_leaves_what_came_to_go_on_with(api, task):
    server = api.client.server
    _, writer = await asyncio.open_connection(server.host, server.port)
    url = f"/api/v1/results/{task}/files/a.bin"
    head = f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\nX-Content-SHA256: {sha(CONTENT)}\r\n\r\n"
    writer.write(head.encode() + CONTENT[:200_000])
    await writer.drain()
    await uploading_began(api)
    writer.close()
    headers = {**announced(CONTENT), "Upload-Complete": "?0", "Upload-Length": str(len(CONTENT))}
    response = await api.post(url, headers=headers)
    assert 0 <= await go_on(api, response.headers["Location"], response.headers.get("Upload-Offset", "0")) <= 200_000
    assert await got(api, url) == CONTENT


async def uploading_began(api: Api) -> None:
    async with asyncio.timeout(10):
        while not list(api.results.glob(".uploads/*.part")):
            await asyncio.sleep(0.01)


async def go_on(api: Api, place: str, offset: str) -> int:
    """Send what is missing; gives the byte that it began at."""
    async with asyncio.timeout(10):
        while (response := await api.client.patch(place, data=CONTENT[int(offset) :], headers={"Upload-Offset": offset})).status != 201:
            assert response.status == 409, await response.text()
            offset = response.headers["Upload-Offset"]
    assert (await response.json())["sha256"] == sha(CONTENT)
    return int(offset)


async def test_whoever_comes_back_takes_an_upload_over_from_a_connection_that_hangs(api, task):
    url = f"/api/v1/results/{task}/files/a.bin"
    place = (await api.post(url, headers={**announced(CONTENT), "Upload-Complete": "?0"})).headers["Location"]
    server = api.client.server
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\nUpload-Offset: 0\r\n\r\n".encode() + CONTENT[:5000])
    await uploading_began(api)
    await go_on(api, place, "0")
    assert await got(api, url) == CONTENT


async def test_an_upload_can_be_given_up(api, task):
    place = (await api.post(f"/api/v1/results/{task}/files/a", b"abc", headers={"Upload-Complete": "?0"})).headers["Location"]
    assert (await api.client.delete(place)).status == 204
    assert (await api.client.head(place)).status == 404
    assert stored_files(api) == []


@pytest.mark.parametrize(
    "name", ["../evil", "%2e%2e/evil", "..%2fevil", "a/%2e%2e/%2e%2e/evil", "%2fetc/evil", "a%00b", "a%5cb", "a%0ab", ".hidden", "a/.b", "a" * 300]
)
async def test_a_name_that_leads_elsewhere_is_refused(api, task, name):
    before = {path for path in api.results.parent.rglob("*")}
    response = await api.client.post(f"/api/v1/results/{task}/files/{name}", data=b"x")
    assert response.status in (400, 404)
    assert {path for path in api.results.parent.rglob("*")} == before


async def test_what_is_not_there_or_too_large_or_too_many_is_refused(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, upload_max_bytes=1000, uploads_per_task=2) as api:
        assert (await api.post("/api/v1/results/no/files/a", b"x")).status == 404
        await api.register()
        id = (await api.submit())["task_id"]
        assert (await put(api, id, "a", bytes(1001), 413))["error"]["code"] == "too_large"

        async def unsized():
            for _ in range(20):
                yield bytes(100)

        assert (await put(api, id, "a", unsized(), 413))["error"]["code"] == "too_large"
        for name in ("a", "b"):
            await put(api, id, name, b"x")
        assert (await put(api, id, "c", b"x", 409))["error"]["code"] == "too_many_files"
        await put(api, id, "a", b"x", 200)
        assert (await put(api, id, "a", b"x", 400, **{"X-Content-SHA256": "abc"}))["error"]["code"] == "bad_digest"


async def test_a_full_disk_refuses_and_keeps_nothing(api, task, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mloc.services.artifacts.receiving.Receiving.write", full)
        refused = await put(api, task, "a.bin", status=507, **announced(CONTENT))
    assert refused["error"]["code"] == "disk_full"
    assert stored_files(api) == []
    assert "ArtifactStored" not in api.logged()
    # announced sizes that do not fit are refused before a byte is sent
    huge = {"Upload-Length": str(200 << 40), "Upload-Complete": "?0"}
    monkeypatch.setattr("mloc.services.artifacts.store.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert (await api.post(f"/api/v1/results/{task}/files/b", headers={**huge, "Upload-Length": "1000"})).status == 507
    monkeypatch.undo()
    await put(api, task, "a.bin", **announced(CONTENT))


async def test_a_sender_that_falls_silent_is_let_go_and_may_go_on(api, task, monkeypatch):
    monkeypatch.setattr(uploading, "IDLE_SEC", 0.2)
    url = f"/api/v1/results/{task}/files/a.bin"
    place = (await api.post(url, headers={**announced(CONTENT), "Upload-Complete": "?0"})).headers["Location"]
    server = api.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\nUpload-Offset: 0\r\n\r\n".encode() + CONTENT[:5000])
    assert b"408" in await asyncio.wait_for(reader.readline(), 10)
    assert (await api.client.head(place)).headers["Upload-Offset"] == "5000"
    writer.close()


async def test_an_upload_may_come_compressed_and_is_stored_as_it_was_before(api, task):
    await put(api, task, "plain.txt", gzip.compress(b"abc" * 100_000), **{"Content-Encoding": "gzip"})
    assert await got(api, f"/api/v1/results/{task}/files/plain.txt") == b"abc" * 100_000


async def test_uploads_and_contents_that_nobody_comes_back_for_expire(api, task):
    await put(api, task, "a.bin", CONTENT)
    await api.post(f"/api/v1/results/{task}/files/b", b"abc", headers={"Upload-Complete": "?0"})
    store = Store(api.results)
    assert store.expire(3600) == (0, 0)
    assert store.expire(-10)[0] >= 3
    assert [path.read_bytes() for path in stored_files(api)] == [CONTENT]
    # what is stored stays; a task's folder that is removed lets its content go
    (api.results / attempt_folder(task, 0) / "artifacts" / "a.bin").unlink()
    assert store.expire(-10) == (1, len(CONTENT))
    assert stored_files(api) == []


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="\xf1\x96"',
        b"no colon at all",
        b"Content-Disposition: form-data; name=file\r\nContent-Length: -1",
        b"Content-Type: \xff\x00",
        b": empty",
        b"X-\xe4: 1",
        b"Content-Disposition: form-data; name=file\r\n Content-Type: a",
        b"A: " + b"x" * 20_000,
    ],
    ids=lambda head: repr(head[:20]),
)
@pytest.mark.parametrize(
    "end", [b"\r\n\r\nbody\r\n--b--\r\n", b"\r\n\r\nbody", b"", b"\r\n\r\nbody\r\n--bc\r\n"], ids=["whole", "no end", "head only", "other end"]
)
async def test_a_form_that_is_none_is_the_senders_mistake(api: Api, task: str, head: bytes, end: bytes) -> None:
    response = await api.post(
        f"/api/v1/results/{task}/files/f", b"--b\r\n" + head + end, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert response.status in (200, 201, 400), await response.text()
    assert (await response.json())["ok"] == (response.status != 400)
