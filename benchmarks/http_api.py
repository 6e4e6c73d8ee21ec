"""Submissions over HTTP beside raw appends to the same server: `python benchmarks/http_api.py [--rounds 5]`.

Server, API and client are processes of their own; the client keeps its connections alive and has one request on each. An answer comes when the
task is in the log (and, with the default durability, on disk). docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import redis
from machine import described
from measuring import CpuMeter, free_port, percentile, spread
from world import World

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WARM_UP = 500
RATE, RATE_SEC = 200, 10.0
ALL_SERVICES = ("scheduler", "aggregator", "metrics", "worker")

YAML_TASK = """apiVersion: mloc/v1
kind: EchoTask
metadata:
  name: bench-%(n)d
  owner: ada
  labels: {team: search, run: nightly}
spec:
  taskType: echo
  resources:
    hardware: {cpu: 1, memory: 512Mi}
  retry: {max_attempts: 2, backoff_sec: 1}
  data:
    type: list
    items:
%(items)s
"""
ITEM = "a prompt of some words, as people write them, numbered %d of task %d, long enough to fill its line"


def yaml_body(n: int) -> bytes:
    """About 1 KB; no two are the same."""
    return (YAML_TASK % {"n": n, "items": "\n".join(f"      - {ITEM % (i, n)}" for i in range(7))}).encode()


def json_body(n: int) -> bytes:
    """The same task."""
    spec = {
        "taskType": "echo", "resources": {"hardware": {"cpu": 1, "memory": "512Mi"}}, "retry": {"max_attempts": 2, "backoff_sec": 1},
        "data": {"type": "list", "items": [ITEM % (i, n) for i in range(7)]},
    }  # fmt: skip
    metadata = {"name": f"bench-{n}", "owner": "ada", "labels": {"team": "search", "run": "nightly"}}
    return msgspec.json.encode({"apiVersion": "mloc/v1", "kind": "EchoTask", "metadata": metadata, "spec": spec})


class Connection(asyncio.Protocol):
    """One request at a time, answered with its status."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the API closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        if len(body) >= length and self._answer is not None:
            self._got, answer, self._answer = body[length:], self._answer, None
            answer.set_result(int(head[9:12]))
            assert head[9:12] == b"201", self._got or body

    def post(self, body: bytes, kind: bytes, key: str = "") -> asyncio.Future[int]:
        self._answer = asyncio.get_running_loop().create_future()
        named = f"Idempotency-Key: {key}\r\n".encode() if key else b""
        self._transport.write(
            b"POST /api/v1/tasks HTTP/1.1\r\nHost: bench\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s" % (kind, named, len(body), body)
        )
        return self._answer

    def close(self) -> None:
        self._transport.close()


def requests(form: str, count: int, first: int) -> list[tuple[bytes, bytes, str]]:
    make, kind = (yaml_body, b"text/yaml") if form == "yaml" else (json_body, b"application/json")
    return [(make(n), kind, f"bench-{os.getpid()}-{n}" if form == "json_with_key" else "") for n in range(first, first + count)]


async def closed_loop(connections: list[Connection], todo: list[tuple[bytes, bytes, str]]) -> list[float]:
    """Each connection sends its next request when the last was answered; milliseconds of each."""
    waiting, taken = iter(todo), []

    async def run(connection: Connection) -> None:
        for body, kind, key in waiting:
            began = time.perf_counter()
            await connection.post(body, kind, key)
            taken.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(run(connection) for connection in connections))
    return taken


async def open_loop(connections: list[Connection], todo: list[tuple[bytes, bytes, str]], rate: float) -> list[float]:
    """Requests are due at a fixed rate, whatever becomes of those before; milliseconds from when each was due."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)
    taken: list[float] = []

    async def send(due: float, body: bytes, kind: bytes, key: str) -> None:
        connection = await free.get()
        await connection.post(body, kind, key)
        taken.append((time.perf_counter() - due) * 1000)
        free.put_nowait(connection)

    began, sent = time.perf_counter() + 0.05, []
    for number, one in enumerate(todo):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(send(due, *one)))
    await asyncio.gather(*sent)
    return taken


def raw_appends(url: str, count: int, together: int) -> float:
    """XADD of the same JSON bodies, as many in flight as the client has connections; appends a second."""
    client = redis.Redis.from_url(url, protocol=2)
    bodies = [json_body(n) for n in range(count)]
    began = time.perf_counter()
    for first in range(0, count, together):
        with client.pipeline(transaction=False) as pipe:
            for body in bodies[first : first + together]:
                pipe.xadd("raw", {"type": "TaskSubmitted", "data": body})
            pipe.execute()
    rate = count / (time.perf_counter() - began)
    client.delete("raw")
    client.close()
    return rate


async def trial(options: argparse.Namespace, base: Path, services: tuple[str, ...]) -> dict[str, Any]:
    world = World(base, options.durability)
    await world.open()
    port = free_port()
    environ = {
        "REDIS_URL": world.url, "ORCHESTRATOR_STATE_DIR": str(world.state_dir), "RESULTS_DIR": str(world.folder / "results"), "PORT": str(port),
        "HEARTBEAT_INTERVAL_SEC": "1", "HEARTBEAT_TTL_SEC": "5",
    }  # fmt: skip
    try:
        figures: dict[str, Any] = {"raw_per_sec": await asyncio.to_thread(raw_appends, world.url, options.requests, options.connections)}
        for name in ("intake-api", *services):
            world.launch(name, ["-m", "mloc.services.command_line", name], environ | {"LOG_FILE": str(world.state_dir / f"{name}.log")})
        connections = await connected(world, port, options.connections)
        first = 0
        for form in options.forms:
            await closed_loop(connections, requests(form, WARM_UP, first))
            first += WARM_UP
            todo = requests(form, options.requests, first)
            first += options.requests
            meter, began = CpuMeter(world.roots()), time.perf_counter()
            taken = await closed_loop(connections, todo)
            seconds = time.perf_counter() - began
            cpu = {name: round(used / len(todo) * 1e6, 1) for name, used in meter.used().items()}
            figures[form] = {
                "per_sec": round(len(todo) / seconds), "p99_ms": round(percentile(taken, 0.99), 2), "cpu_us": cpu,
                "api_bound_per_sec": round(1e6 / max(cpu["intake-api"], 0.1)), "foreign_cores": meter.foreign_cores(),
            }  # fmt: skip
            await drained(world, services)
        todo = requests("yaml", int(RATE * RATE_SEC), first)
        meter = CpuMeter(world.roots())
        late = await open_loop(connections, todo, RATE)
        figures["at_200_per_sec"] = {
            "p50_ms": round(percentile(late, 0.5), 2), "p99_ms": round(percentile(late, 0.99), 2), "max_ms": round(max(late), 2),
            "foreign_cores": meter.foreign_cores(),
        }  # fmt: skip
        for connection in connections:
            connection.close()
        return figures
    finally:
        await world.close()


async def drained(world: World, services: tuple[str, ...]) -> None:
    """Where tasks are run too, wait until they are, so that the next figure begins as the first did."""
    if not services:
        return
    client = redis.Redis.from_url(world.url, protocol=2)
    while int(client.hget("{mloc}:leader:scheduler", "open") or 0):  # type: ignore[arg-type]
        world.check()
        await asyncio.sleep(0.1)
    client.close()


async def connected(world: World, port: int, count: int) -> list[Connection]:
    loop, until = asyncio.get_running_loop(), time.monotonic() + 30
    while True:
        try:
            return [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]
        except OSError:
            world.check()
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.05)


def summary(rounds: list[dict[str, Any]], forms: list[str]) -> dict[str, Any]:
    raw = spread([one["raw_per_sec"] for one in rounds])
    said: dict[str, Any] = {"raw_per_sec": raw}
    for form in forms:
        some = [one[form] for one in rounds]
        said[form] = {
            "per_sec": spread([one["per_sec"] for one in some]), "to_raw": spread([one[form]["per_sec"] / one["raw_per_sec"] for one in rounds]),
            "p99_ms": spread([one["p99_ms"] for one in some]), "foreign_cores": spread([one["foreign_cores"] for one in some]),
            "cpu_us": {name: spread([one["cpu_us"].get(name, 0.0) for one in some]) for name in some[0]["cpu_us"]},
        }  # fmt: skip
    rate = [one["at_200_per_sec"] for one in rounds]
    said["at_200_per_sec"] = {name: spread([one[name] for one in rate]) for name in rate[0]}
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--durability", default="always", choices=("always", "fast"))
    parser.add_argument("--forms", nargs="*", default=["yaml", "json", "json_with_key"])
    parser.add_argument("--services", action="store_true", help="with scheduler, aggregator, metrics and a worker that runs the tasks")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=RESULTS / "http_api.json")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="mloc-bench-", dir=options.base))
    try:
        rounds = [asyncio.run(trial(options, base, ALL_SERVICES if options.services else ())) for _ in range(options.rounds)]
    finally:
        shutil.rmtree(base, ignore_errors=True)
    result = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": described(options.base),
        "connections": options.connections, "requests": options.requests, "durability": options.durability, "all_services": options.services,
        "summary": summary(rounds, options.forms), "rounds": rounds,
    }  # fmt: skip
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(msgspec.json.format(msgspec.json.encode(result["summary"])).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
