"""A million rows from a jsonl file through the whole system to `responses.json` and to whoever downloads it, with the memory that it took.

    python benchmarks/rows.py [--rows 1000000] [--shards 16] [--workers 1] [--write]

Real processes: `mloc up` with its workers, an echo task that reads the rows and records each one, the result fetched over HTTP and by the
command, and exported as a table. What is measured of each process is the peak of its resident memory (VmHWM). `--write` keeps the figures in
results/rows.json.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from measuring import free_port, peak_mib

from mloc.services.intake.published_results import LARGE_BYTES

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results" / "rows.json"
DEADLINE_SEC = 1800.0
WORD = "the quick brown fox jumps over the lazy dog"


def main() -> None:
    asked = _asked()
    figures = [measure(rows, shards, asked.workers) for rows in asked.rows for shards in asked.shards]
    for figure in figures:
        print(json.dumps(figure, indent=2))
    if asked.write:
        KEPT.write_text(json.dumps({"machine": _machine(), "runs": figures}, indent=2) + "\n")
        print(f"wrote {KEPT}")


def measure(rows: int, shards: int, workers: int) -> dict[str, Any]:
    """One run in a folder of its own. Raises RuntimeError where a row is missing, doubled or out of order."""
    with tempfile.TemporaryDirectory(prefix="mloc-rows-") as name:
        folder = Path(name)
        source = folder / "rows.jsonl"
        with source.open("w") as file:
            file.writelines(json.dumps({"prompt": f"{row} {WORD}", "metadata": {"row": row}}) + "\n" for row in range(rows))
        cell = Cell(folder, workers)
        try:
            began = time.monotonic()
            id = cell.submit(_task(source, shards))
            cell.wait(id)
            published = time.monotonic()
            fetched = _download(f"{cell.url}/api/v1/results/{id}")
            downloaded = time.monotonic()
            printed, command_mib = cell.print_result(id)
            exported = cell.export()
            peaks = cell.peaks()
        finally:
            cell.close()
        _check(fetched, rows)
        if not _is_same(printed, fetched):
            raise RuntimeError("the command gives another result than the API")
        if exported["indices"] != list(range(rows)):
            raise RuntimeError(f"{len(exported['indices'])} rows were exported of {rows}, or not in order")
        return {
            "rows": rows, "shards": shards, "workers": workers, "source_mib": _mib(source.stat().st_size), "result_mib": _mib(len(fetched)),
            "submitted_to_published_sec": round(published - began, 1), "rows_per_sec": round(rows / (published - began)),
            "download_sec": round(downloaded - published, 1),
            "peak_rss_mib": peaks | {"command": command_mib, "export": exported["peak_rss_mib"]},
        }  # fmt: skip


class Cell:
    """`mloc up` in a folder; ended by `close`."""

    def __init__(self, folder: Path, workers: int, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        inherited = {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME", "LANG")}
        self._environ = inherited | {"PORT": str(self.port), "MIN_FREE_DISK": "0", "STOP_GRACE_SEC": "2", **environ}
        command = (sys.executable, "-m", "mloc.services.command_line", "up", "--workers", str(workers))
        with (folder / "up.out").open("ab") as output:
            self._up = subprocess.Popen(command, env=self._environ, cwd=folder, stdout=output, stderr=output)
        self.until(lambda: b"MLOC is up" in (folder / "up.out").read_bytes())

    @property
    def pid(self) -> int:
        """Of the process whose tree is the whole cell."""
        return self._up.pid

    @property
    def results(self) -> Path:
        return self._folder / "results"

    def submit(self, task: str) -> str:
        request = urllib.request.Request(f"{self.url}/api/v1/tasks", task.encode(), {"Content-Type": "text/yaml"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["task_id"])

    def wait(self, id: str) -> None:
        def ended() -> bool:
            with urllib.request.urlopen(f"{self.url}/api/v1/tasks/{id}", timeout=60) as answer:
                task = json.load(answer)
            if task["status"] == "FAILED":
                raise RuntimeError(f"the task failed: {task}")
            return bool(task["status"] == "DONE")

        self.until(ended)

    def print_result(self, id: str) -> tuple[bytes, float]:
        """`mloc-intake result` into a pipe: what it printed, and its own peak in MiB."""
        command = (sys.executable, "-m", "mloc.services.intake.cli", "result", id)
        with subprocess.Popen(command, env=self._environ, cwd=self._folder, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            text, peak = bytearray(), 0.0
            while chunk := process.stdout.read(1 << 20):
                text += chunk
                peak = max(peak, peak_mib(process.pid))
        return bytes(text.removesuffix(b"\n")), peak  # the command ends its last line

    def export(self) -> dict[str, Any]:
        """`mloc export results`: the rows' numbers in its table, and its own peak."""
        command = (sys.executable, "-m", "mloc.services.command_line", "export", "results", "--state", "published")
        peak = 0.0
        with subprocess.Popen(command, env=self._environ, cwd=self._folder, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peak = max(peak, peak_mib(process.pid))
                time.sleep(0.02)
        with (self._folder / "exports/results/v0001/items.csv").open(newline="") as table:
            return {"indices": [int(row["index"]) for row in csv.DictReader(table)], "peak_rss_mib": peak}

    def peaks(self) -> dict[str, float]:
        """The largest peak among the processes of each kind, in MiB."""
        found: dict[str, float] = {}
        for pid in _descendants(self._up.pid):
            kind = kind_of(pid)
            found[kind] = max(found.get(kind, 0.0), peak_mib(pid))
        return dict(sorted(found.items()))

    def close(self) -> None:
        self._up.terminate()
        self._up.wait(60)

    def until(self, what: Callable[[], bool], look_sec: float = 0.05) -> None:
        """Raises RuntimeError where the cell ends before, or it takes too long."""
        deadline = time.monotonic() + DEADLINE_SEC
        while not what():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "up.out").read_text()[-3000:])
            time.sleep(look_sec)


def _task(source: Path, shards: int) -> str:
    parallel = f"  parallel: {{enabled: true, shards: {shards}}}\n" if shards > 1 else ""
    return (
        "apiVersion: mloc/v1\nkind: EchoTask\nmetadata: {name: rows}\nspec:\n  taskType: echo\n"
        f"  data: {{jsonl: {{path: {source}}}}}\n{parallel}"
    )  # fmt: skip


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=600) as answer:
        return bytes(answer.read())


def _is_same(printed: bytes, fetched: bytes) -> bool:
    """The command lays a small result out for people and sends a large one on as it is."""
    return printed == fetched if len(fetched) > LARGE_BYTES else bool(json.loads(printed) == json.loads(fetched))


def _check(fetched: bytes, rows: int) -> None:
    if b"\n" in fetched:  # a row a line
        indices = [int(line[9 : line.index(b",")]) for line in io.BytesIO(fetched) if line.startswith(b'{"index":')]
    else:  # so small that the log holds it
        indices = [item["index"] for item in json.loads(fetched)["items"]]
    if indices != list(range(rows)):
        raise RuntimeError(f"{len(indices)} rows came back of {rows}, or not in order")


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [one for child in children for one in (child, *_descendants(child))]


def kind_of(pid: int) -> str:
    """What a process of a cell does."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if "mloc.executors.host" in words:
        return "host (light)" if "--light" in words else "host"
    if "mloc.services.results.writer" in words:
        return "result writer"
    return words[words.index("mloc.services.command_line") + 1] if "mloc.services.command_line" in words else Path(words[0]).name


def _machine() -> dict[str, str]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {"cores": str(os.cpu_count()), "memory": f"{memory:.0f} GiB", "python": sys.version.partition(" ")[0]}


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A million rows through the whole system, and the memory that it took.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {KEPT.name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
