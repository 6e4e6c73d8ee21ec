"""The spine beside a raw stream loop and two queues that users would pick instead, all on one server program: `make bench`.

    python benchmarks/spine.py [--rounds 5] [--quick] [--only end_to_end …] [--contestants mloc raw …]

Each trial is a process with a new server and a new folder; within a round the trials come in random order, so that what else the machine
does meanwhile hits all alike. Ratios are of medians of the same run. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from machine import described
from report import Row, summary, table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TRIAL_SEC = 240
PEERS = ("dramatiq", "taskiq")
ONCE_IN_A_WHILE = ("kill", "fold", "reading")  # they take long, or hardly vary


class Trial(NamedTuple):
    figure: str
    contestant: str
    workers: int
    tasks: int


def planned(scale: float) -> list[Trial]:
    """One round. The number of tasks is what takes a contestant a few seconds."""
    end_to_end = {"raw": 30_000, "dramatiq": 5_000, "taskiq": 3_000, "mloc": 10_000, "mloc-ext4": 10_000, "mloc-always": 10_000}
    idle = {"raw": 200, "dramatiq": 200, "taskiq": 200, "mloc": 200, "mloc-always": 200}
    trials = [Trial("submissions", name, 0, int(4_000 * scale)) for name in ("raw", *PEERS, "mloc", "mloc-always")]
    trials += [Trial("end_to_end", name, workers, int(tasks * scale)) for name, tasks in end_to_end.items() for workers in (1, 2)]
    trials += [Trial("idle", name, 1, int(tasks * scale)) for name, tasks in idle.items()]
    trials += [Trial("kill", name, 1, 500) for name in ("raw", *PEERS, "mloc", "mloc-always")]
    trials += [Trial("fold", "mloc", 1, int(10_000 * scale)), Trial("reading", "mloc", 0, int(4_000 * scale))]
    return trials


def rounds_of(options: argparse.Namespace) -> Iterator[tuple[int, list[Trial]]]:
    chance = random.Random(options.seed)
    for number in range(options.rounds):
        trials = [
            trial
            for trial in planned(options.scale)
            if (not options.only or trial.figure in options.only)
            and (not options.contestants or trial.contestant in options.contestants)
            and (trial.figure not in ONCE_IN_A_WHILE or number < options.slow_rounds)
        ]
        chance.shuffle(trials)
        yield number, trials


def measured(trial: Trial, base: Path) -> dict[str, Any] | None:
    """The trial's figures; None, and a line for the reader, where it failed."""
    command = [
        sys.executable, str(HERE / "trial.py"), trial.contestant, trial.figure,
        "--workers", str(trial.workers), "--tasks", str(trial.tasks), "--base", str(base),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SEC, check=True)
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, Any])
    except subprocess.TimeoutExpired:
        print(f"    not done within {TRIAL_SEC} s", flush=True)
    except subprocess.CalledProcessError as error:
        print(f"    failed: {error.stderr.strip().splitlines()[-1] if error.stderr.strip() else error}", flush=True)
    return None


def run(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    base = Path(tempfile.mkdtemp(prefix="mloc-bench-", dir=options.base))
    try:
        for number, trials in rounds_of(options):
            for position, trial in enumerate(trials, 1):
                print(f"round {number + 1}/{options.rounds}, {position}/{len(trials)}: {trial.figure} {trial.contestant} {trial.workers}", flush=True)
                if (figures := measured(trial, base)) is not None:
                    rows.append(Row(number, trial.figure, trial.contestant, trial.workers, trial.tasks, figures))
    finally:
        shutil.rmtree(base, ignore_errors=True)  # only now: right after many deletions ext4 makes new files slowly
    return rows


def main() -> int:
    options = _options()
    began = time.monotonic()
    rows = run(options)
    result = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_sec": round(time.monotonic() - began),
        "machine": described(options.base),
        "summary": summary(rows, PEERS, os.cpu_count() or 1),
        "rows": rows,
    }
    text = table(result["summary"], result["machine"])
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(f"every figure of every round: {os.path.relpath(options.output)}")
    if options.write_page:
        _put_into_page(HERE.parent / "docs" / "benchmarks.md", text)
    return 0 if rows else 1


def _put_into_page(page: Path, text: str) -> None:
    before, _, rest = page.read_text().partition("<!-- figures -->")
    _, _, after = rest.partition("<!-- /figures -->")
    page.write_text(f"{before}<!-- figures -->\n{text}\n<!-- /figures -->{after}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--slow-rounds", type=int, default=3, help="in how many of them a worker is killed, and a log folded")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tasks")
    parser.add_argument("--quick", action="store_true", help="one round with a third of the tasks")
    parser.add_argument("--only", nargs="*", default=[], metavar="FIGURE", help="submissions, end_to_end, idle, kill, fold, reading")
    parser.add_argument("--contestants", nargs="*", default=[], metavar="NAME", help="raw, dramatiq, taskiq, mloc, mloc-ext4, mloc-always")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the order of the trials")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()), help="folder for the servers' files and the trees on disk")
    parser.add_argument("--output", type=Path, default=RESULTS / "spine.json")
    parser.add_argument("--write-page", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds = options.slow_rounds = 1
        options.scale /= 3
    return options


if __name__ == "__main__":
    sys.exit(main())
