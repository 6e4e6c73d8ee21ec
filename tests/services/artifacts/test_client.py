"""Many clients, connections that break, contents that repeat or are wrong: nothing lost, nothing doubled."""

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from mloc.services.artifacts import client as transfers
from mloc.services.artifacts.client import Stored, Transfer, TransferError
from tests.services.artifacts.cutting_proxy import CuttingProxy
from tests.services.intake.conftest import Api, api  # noqa: F401


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def bytes_stored(folder: Path) -> int:
    """Of everything that is no note, each inode once."""
    found = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    return sum(found.values())


@contextlib.asynccontextmanager
async def breaking(api: Api, seed: int, least: int, most: int, whole: float = 0.0) -> AsyncIterator[tuple[str, CuttingProxy]]:  # noqa: F811
    """The API's address through connections that carry a random number of bytes."""
    draw = random.Random(seed)
    proxy = CuttingProxy(api.client.server.port, lambda: -1 if draw.random() < whole else draw.randrange(least, most))
    async with proxy.running():
        yield f"http://127.0.0.1:{proxy.port}/api/v1/results", proxy


async def test_20_clients_at_once_over_breaking_connections_lose_and_double_nothing(api, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(transfers, "FIRST_RETRY_SEC", 0.01)
    monkeypatch.setattr(transfers, "LONGEST_RETRY_SEC", 0.1)
    # given 20 files, five of them with the same content, one of them twice under the same name
    contents = [content(number if number % 4 else 0, 2_000_000 + (number if number % 4 else 0)) for number in range(20)]
    files = [write(tmp_path / f"f{number}", data) for number, data in enumerate(contents)]
    names = [f"f{number}" for number in range(20)]
    names[4] = names[0]
    task = (await api.submit())["task_id"]
    async with breaking(api, 1, 50_000, 900_000) as (base, proxy), aiohttp.ClientSession() as session:
        transfer = Transfer(session)
        # when all are uploaded at once, some of them by two workers, and one is announced with a wrong sum
        wrong = transfer.upload(f"{base}/{task}/files/wrong", files[1], sha256=hashlib.sha256(b"other").hexdigest())
        uploads = [transfer.upload(f"{base}/{task}/files/{name}", file) for name, file in zip(names, files, strict=True)]
        again = [transfer.upload(f"{base}/{task}/files/{names[number]}", files[number]) for number in (1, 2, 3)]
        *stored, refused = await asyncio.wait_for(asyncio.gather(*uploads, *again, wrong, return_exceptions=True), 150)
        # then each is there, whole, and can be had over connections that break as well
        assert [one for one in stored if not isinstance(one, Stored)] == []
        assert proxy.cuts > 20
        assert [one.sha256 for one in stored] == [hashlib.sha256(data).hexdigest() for data in (*contents, *contents[1:4])]
        for number in (0, 1, 19):
            copy = tmp_path / f"copy{number}"
            await transfer.download(f"{base}/{task}/files/{names[number]}", copy, sha256=stored[number].sha256)
            assert copy.read_bytes() == contents[number]
    assert isinstance(refused, TransferError)
    assert refused.status == 422
    # and nothing is doubled: each content is on disk once, each name is in the log once
    assert bytes_stored(api.results) == sum(len(data) for data in {*contents})
    assert api.logged().count("ArtifactStored") == len({*names})
    assert not list(api.results.rglob("*.part"))


async def test_a_content_that_is_there_already_is_not_sent(api, tmp_path):  # noqa: F811
    file = write(tmp_path / "a", content(1, 3_000_000))
    first, second = (await api.submit())["task_id"], (await api.submit())["task_id"]
    url = str(api.client.make_url("/api/v1/results"))
    async with aiohttp.ClientSession() as session:
        await Transfer(session).upload(f"{url}/{first}/files/a", file)
        seen = []
        async with breaking(api, 1, 10_000, 10_001) as (base, proxy):
            await Transfer(session).upload(f"{base}/{second}/files/a", file, progress=lambda done, size: seen.append((done, size)))
    assert proxy.cuts == 0
    assert seen == [(3_000_000, 3_000_000)]
    assert bytes_stored(api.results) == 3_000_000


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
async def test_files_of_every_size_go_there_and_back(api, tmp_path, size):  # noqa: F811
    file = write(tmp_path / "a", os.urandom(size))
    url = str(api.client.make_url(f"/api/v1/results/{(await api.submit())['task_id']}/files/deep/a"))
    async with aiohttp.ClientSession() as session:
        stored = await Transfer(session).upload(url, file)
        assert await Transfer(session).download(url, tmp_path / "b") == stored.sha256
    assert (tmp_path / "b").read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a", "b"]


async def test_a_refusal_ends_an_upload_at_once_and_says_why(api, tmp_path):  # noqa: F811
    file = write(tmp_path / "a", b"x" * 2_000_000)
    url = str(api.client.make_url("/api/v1/results"))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TransferError, match="there is no task no") as caught:
            await Transfer(session).upload(f"{url}/no/files/a", file)
        assert caught.value.status == 404


async def test_patience_has_an_end(tmp_path, monkeypatch):
    file = write(tmp_path / "a", b"x")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TransferError, match=r"no progress for 0\.3 s"):
            await Transfer(session, patience_sec=0.3).upload("http://127.0.0.1:9/files/a", file)


async def test_a_download_of_another_content_than_asked_for_is_thrown_away(api, tmp_path):  # noqa: F811
    task = (await api.submit())["task_id"]
    await api.post(f"/api/v1/results/{task}/files/a", b"hello")
    url = str(api.client.make_url(f"/api/v1/results/{task}/files/a"))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TransferError, match="thrown away"):
            await Transfer(session).download(url, tmp_path / "a", sha256="0" * 64)
    assert list(tmp_path.glob("*a*")) == []


async def test_a_download_goes_on_from_an_earlier_call_and_past_a_file_that_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_RETRY_SEC", 0.01)
    data = content(5, 400_000)
    ranges = []

    async def serve(request: web.Request) -> web.Response:
        ranges.append(request.headers.get("Range", ""))
        start = int(ranges[-1].removeprefix("bytes=").rstrip("-") or 0)
        return web.Response(body=data[start:], status=206 if start else 200)

    app = web.Application()
    app.router.add_get("/a", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    write(tmp_path / ".a.download", data[:1234])
    async with aiohttp.ClientSession() as session:
        sha256 = hashlib.sha256(data).hexdigest()
        assert await Transfer(session).download(f"http://127.0.0.1:{port}/a", tmp_path / "a", sha256=sha256) == sha256
    await runner.cleanup()
    assert ranges == ["bytes=1234-"]
    assert (tmp_path / "a").read_bytes() == data
