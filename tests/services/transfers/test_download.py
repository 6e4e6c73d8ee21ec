"""One URL onto this disk, over connections that break."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from mloc.services.transfers.download import Downloaded, Request, download, new_session
from mloc.services.transfers.transfer_errors import TransferError, shown_url
from tests.services.transfers.file_server import FileServer

CONTENT = bytes(range(256)) * 4096 * 4


class Unhurried:
    """A clock on which every pause is over at once; what was slept is noted."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    made = new_session()
    yield made
    await made.close()


@pytest.fixture
def clock() -> Unhurried:
    return Unhurried()


async def fetched(session: aiohttp.ClientSession, clock: Unhurried, request: Request, target: Path) -> Downloaded:
    return await download(session, clock, request, target, lambda done, total: None)


async def test_a_file_comes_whole_with_its_digest(server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    came = await fetched(session, clock, Request(server.url("a.bin")), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (came.sha256, came.size_bytes, came.file_name) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


async def test_a_cut_connection_is_gone_on_from_where_it_broke(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    server.files["a"] = CONTENT
    server.cut_after = [2_000_000, 1_000_000]
    await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    begun_at = [int(asked.removeprefix("bytes=").rstrip("-") or 0) for asked in server.statuses_asked_with("Range")]
    assert len(begun_at) == 3
    assert 0 == begun_at[0] < begun_at[1] < begun_at[2]


async def test_what_an_earlier_worker_had_fetched_is_not_fetched_again(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    server.files["a"] = CONTENT
    server.cut_after = [2_000_000]
    broken = asyncio.ensure_future(fetched(session, _Stuck(), Request(server.url("a")), tmp_path / "a"))
    async with asyncio.timeout(10):
        while len(server.asked) < 1 or not (tmp_path / "a.part").exists() or (tmp_path / "a.part").stat().st_size < 100_000:
            await asyncio.sleep(0.005)
    broken.cancel()
    with pytest.raises(asyncio.CancelledError):
        await broken
    await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.statuses_asked_with("Range")[-1] != ""


class _Stuck(Unhurried):
    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


async def test_a_file_that_changed_meanwhile_is_begun_anew(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    server.files["a"] = CONTENT
    server.cut_after = [2_000_000]
    server.on_request = lambda: server.files.update(a=CONTENT[::-1]) if len(server.asked) == 2 else None
    await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


async def test_an_overloaded_server_is_asked_again_and_its_wish_for_a_pause_kept(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    server.files["a"] = CONTENT
    server.refuse = [(503, {"Retry-After": "7"}), (500, {})]
    await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    assert clock.slept[0] == 7.0
    assert len(clock.slept) == 2


async def test_one_that_stays_overloaded_fails_and_can_be_tried_later(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    server.refuse = [(503, {})] * 50
    with pytest.raises(TransferError, match="503") as raised:
        await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    assert raised.value.retryable
    assert len(server.asked) == 5


@pytest.mark.parametrize(("status", "is_missing"), [(404, True), (403, False), (401, False)])
async def test_what_is_refused_for_good_is_not_asked_for_again(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path, status: int, is_missing: bool
) -> None:
    server.refuse = [(status, {})] * 50
    with pytest.raises(TransferError, match=str(status)) as raised:
        await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    assert (raised.value.retryable, raised.value.is_missing, len(server.asked)) == (False, is_missing, 1)


async def test_a_server_that_is_not_there_can_be_tried_later(session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"127\.0\.0\.1:1/a") as raised:
        await fetched(session, clock, Request("http://127.0.0.1:1/a"), tmp_path / "a")
    assert raised.value.retryable


async def test_wrong_bytes_are_fetched_once_more_and_then_refused(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    server.files["a"] = CONTENT
    with pytest.raises(TransferError, match="promised"):
        await fetched(session, clock, Request(server.url("a"), sha256="0" * 64), tmp_path / "a")
    assert len(server.asked) == 2
    assert not list(tmp_path.iterdir())


async def test_what_is_too_large_is_not_fetched(server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path) -> None:
    server.files["a"] = CONTENT
    with pytest.raises(TransferError, match="WORKER_CACHE_SIZE") as raised:
        await fetched(session, clock, Request(server.url("a"), limit_bytes=1000), tmp_path / "a")
    assert not raised.value.retryable


async def test_an_unchanged_file_is_not_sent_again(server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path) -> None:
    server.files["a"] = CONTENT
    first = await fetched(session, clock, Request(server.url("a")), tmp_path / "a")
    second = await fetched(session, clock, Request(server.url("a"), known=first.version), tmp_path / "b")
    assert second.unchanged
    assert not (tmp_path / "b").exists()


async def test_headers_go_to_their_own_host_and_not_to_where_it_leads(
    server: FileServer, session: aiohttp.ClientSession, clock: Unhurried, tmp_path: Path
) -> None:
    other = FileServer()
    await other.start()
    try:
        other.files["a"] = CONTENT
        server.redirect["a"] = other.url("a")
        await fetched(session, clock, Request(server.url("a"), {"X-Key": "s3cret"}), tmp_path / "a")
        assert server.statuses_asked_with("X-Key") == ["s3cret"]
        assert other.statuses_asked_with("X-Key") == [""]
    finally:
        await other.close()


def test_a_url_is_shown_without_what_may_be_a_secret() -> None:
    assert shown_url("https://me:pw@host:8/a/b?X-Signature=abc#f") == "https://host:8/a/b?…"
