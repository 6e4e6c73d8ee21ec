"""The command lines of `mloc export` and `mloc report`; what they need is imported only when one is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMATS = ("csv", "json", "parquet")
FILTERS = ("state", "kind", "owner", "project", "since")
Command = Callable[[argparse.Namespace], int]


def add_commands(commands: Any, export_go: Command, report_go: Command) -> None:
    """`export` and `report` among the commands of a parser."""
    raw = argparse.RawDescriptionHelpFormatter
    about = "Write the results of tasks as tables into a new folder: tasks (a row a task) and items (a row an item of a result)."
    example = "example:\n  mloc export results --format parquet --project billing --since 7d\n\nParquet needs the training extra (pyarrow)."
    export = commands.add_parser("export", help="results as CSV, JSON lines or Parquet", description=about, epilog=example, formatter_class=raw)
    export.add_argument("what", choices=("results",))
    export.add_argument("--format", choices=FORMATS, default="csv")
    export.add_argument("--output", type=Path, default=Path("exports"), metavar="DIR", help="the folder of exports (default ./exports)")
    export.set_defaults(go=export_go)
    about = "What tasks did, as Markdown: success rate, times by executor, causes of failure, use of workers and cost."
    example = "example:\n  mloc report --since 7d > report.md"
    reporting = commands.add_parser("report", help="what tasks did, as Markdown", description=about, epilog=example, formatter_class=raw)
    reporting.add_argument("--output", type=Path, metavar="FILE", help="write it there")
    reporting.set_defaults(go=report_go)
    for one in (export, reporting):
        for name in FILTERS:
            one.add_argument(f"--{name}", default="", help={"state": "states, with commas", "since": "an age (15m, 2h, 1d) or a time"}.get(name))
        one.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
        one.add_argument("--url", metavar="URL", help="of the API of an MLOC elsewhere; its token is in ORCHESTRATOR_TOKEN")
        one.add_argument("--json", action="store_true", help="for programs")
