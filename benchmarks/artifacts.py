"""A large file to the API and back, beside a plain copy that is hashed on its way: `python benchmarks/artifacts.py [--size 2GiB] [--quick]`.

Server, API and client are processes of their own. What counts is that the peak memory of API and client does not grow with the file, and how
much of the plain copy's speed is left. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from machine import described
from measuring import CpuMeter, free_port, peak_mib, spread
from world import World

from mloc.core.language.quantities import size_bytes
from mloc.services.artifacts.client import Transfer
from mloc.services.artifacts.digests import file_sha256

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "artifacts.json"
PIECE = 1 << 20
TASK = b'{"apiVersion": "mloc/v1", "kind": "EchoTask", "metadata": {"name": "bench"}, "spec": {"taskType": "echo", "data": ["a"]}}'


async def moved(what: str, url: str, file: Path) -> dict[str, float]:
    """What the client process does and prints. Seconds are from the first request, or from the first byte that is hashed, to the last answer."""
    began = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        if what == "upload":
            await Transfer(session).upload(url, file)
        else:
            await Transfer(session).download(url, file)
    return {"seconds": time.perf_counter() - began, "peak_mib": peak_mib(os.getpid())}


def as_process(what: str, url: str, file: Path) -> dict[str, float]:
    """The same in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, str(Path(__file__)), "--client", what, url, str(file)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    said: dict[str, float] = json.loads(ended.stdout)
    return said


def plain_copy(source: Path, target: Path) -> float:
    """Seconds of what moving a file cannot do without: read, hash, write, sync."""
    began, digest = time.perf_counter(), hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while piece := read.read(PIECE):
            digest.update(piece)
            written.write(piece)
        os.fsync(written.fileno())
    return time.perf_counter() - began


def submitted(url: str, world: World) -> str:
    until = time.monotonic() + 30
    while True:
        request = urllib.request.Request(f"{url}/api/v1/tasks", TASK, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return str(json.load(answer)["task_id"])
        except OSError:
            world.check()
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def random_file(path: Path, size: int) -> str:
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(os.urandom(min(PIECE, size - start)))
        os.fsync(file.fileno())
    return file_sha256(path)


async def trial(base: Path, file: Path, sha256: str) -> dict[str, Any]:
    size = file.stat().st_size
    world = World(base, "fast")
    await world.open()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {
        "REDIS_URL": world.url, "ORCHESTRATOR_STATE_DIR": str(world.state_dir), "RESULTS_DIR": str(world.folder / "results"), "PORT": str(port),
        "LOG_FILE": str(world.state_dir / "api.log"),
    }  # fmt: skip
    try:
        world.launch("intake-api", ["-m", "mloc.services.command_line", "intake-api"], environ)
        place = f"{url}/api/v1/results/{await asyncio.to_thread(submitted, url, world)}/files/large.bin"
        api = world.roots()["intake-api"]
        figures: dict[str, Any] = {"api_before_mib": round(peak_mib(api), 1)}
        plain = await asyncio.to_thread(plain_copy, file, world.folder / "plain")
        (world.folder / "plain").unlink()
        figures["plain_mb_s"] = round(size / plain / 1e6, 1)
        copy = world.folder / "copy"
        for what, local in (("upload", file), ("download", copy)):
            meter = CpuMeter(world.roots())
            said = await asyncio.to_thread(as_process, what, place, local)
            figures[what] = {
                "mb_s": round(size / said["seconds"] / 1e6, 1), "to_plain": round(plain / said["seconds"], 3),
                "client_peak_mib": round(said["peak_mib"], 1), "api_peak_mib": round(peak_mib(api), 1),
                "api_cpu_sec": meter.used()["intake-api"], "foreign_cores": meter.foreign_cores(),
            }  # fmt: skip
        if file_sha256(copy) != sha256:
            raise RuntimeError("what came back is another content")
        return figures
    finally:
        await world.close()
        shutil.rmtree(world.folder, ignore_errors=True)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    alone = {name: spread([one[name] for one in rounds]) for name in ("plain_mb_s", "api_before_mib")}
    return alone | {
        what: {name: spread([one[what][name] for one in rounds]) for name in rounds[0][what]} for what in ("upload", "download")
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", type=size_bytes, default=size_bytes("2GiB"), help="of the file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round with 256 MiB, to see that it runs; nothing is written")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()), help="a folder with room for three times the file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--client", nargs=3, metavar=("WHAT", "URL", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        what, url, file = options.client
        print(json.dumps(asyncio.run(moved(what, url, Path(file)))))
        return 0
    size, count = (256 << 20, 1) if options.quick else (options.size, options.rounds)
    base = Path(tempfile.mkdtemp(prefix="mloc-bench-", dir=options.base))
    try:
        sha256 = random_file(base / "large.bin", size)
        rounds = [asyncio.run(trial(base, base / "large.bin", sha256)) for _ in range(count)]
    finally:
        shutil.rmtree(base, ignore_errors=True)
    result = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": described(options.base), "size_bytes": size,
        "summary": summary(rounds), "rounds": rounds,
    }  # fmt: skip
    if not options.quick:
        options.output.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(msgspec.json.format(msgspec.json.encode(result["summary"])).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
