"""What the commands need of MLOC, wherever it is: the event log of this machine (`LogSource`) or an API elsewhere (`ApiSource`).

Both give the JSON of the API, so that a command shows the same and prints the same `--json` in both modes.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from msgspec import Struct

from mloc.core.language.errors import Problem
from mloc.core.language.plan import Plan
from mloc.core.task import FINAL
from mloc.services.intake.task_file import TaskFile

View = dict[str, Any]
"""A task as `views.task_view` makes it."""


class Unreachable(Exception):
    """The API cannot be reached, or does not answer as one; the message names it and says what to do. `is_refused`: it answered, but not so."""

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused


class MaybeTaken(Exception):
    """The answer to a submission was lost: it is not known whether the tasks were taken."""


class Prepared(Struct, frozen=True):
    """A task file that was read without an error. `local_files`: relative paths in it → the files on this machine."""

    file: TaskFile
    plans: tuple[Plan, ...]
    warnings: tuple[Problem, ...]
    overrides: dict[str, str] = {}
    local_files: dict[str, str] = {}


class Accepted(Struct, frozen=True):
    """What became of a submission. `tasks` in the short form of the API's answer, parents before their stages."""

    tasks: list[View]
    warnings: list[str]
    repeated: bool = False

    @property
    def ids(self) -> list[str]:
        return [task["task_id"] for task in self.tasks]

    @property
    def roots(self) -> list[str]:
        return [task["task_id"] for task in self.tasks if not task["parent"]]


class Source(Protocol):
    """One command's view. Calls raise Unreachable or LogUnavailable, and UnknownTask for an id that is not there."""

    again: str
    """What a command line that is to meet the same tasks needs beside their id: "" or " --url …"."""

    @property
    def trouble(self) -> str:
        """While following: why nothing can be seen now, "" while it can."""

    async def submit(self, prepared: Prepared, key: str) -> Accepted:
        """Each file whole or not at all. Raises LanguageError, KeyConflict, BacklogFull, MaybeTaken."""

    async def dry_run(self, prepared: Prepared) -> View:
        """`tasks` (each with its `placement`) and `warnings`. Raises LanguageError."""

    async def find(self, text: str) -> str:
        """The id of the task with this id, else of the newest with this name, else of the only one whose id starts so."""

    async def page(self, fields: dict[str, str], labels: list[str]) -> View:
        """`tasks`, `total`, `next_cursor`, `warnings`; fields as `GET /api/v1/tasks` takes them, and what it answers. Raises QueryError."""

    async def task(self, id: str) -> View:
        """With its children as `tasks`, and its spec while it is open, secrets masked."""

    async def explanation(self, id: str) -> View:
        """`reason`, `summary`, `workers`."""

    async def lines(self, id: str, after: str) -> list[View]:
        """Log lines and metric points that follow the one with the id `after` ("": from the first); [] at the end."""

    async def ask(self, what: str, id: str, reason: str) -> View:
        """`what` is cancel or retry. Raises RequestRefused where it makes no sense."""

    async def result(self, id: str) -> bytes | None:
        """`responses.json` of a published task that is not large; None where it is nowhere."""

    async def large_result(self, id: str) -> str:
        """Where the result of a published task is (a path or a URL) when it is too large to be held and laid out; "" else."""

    async def copy_result(self, id: str, to: BinaryIO) -> None:
        """Write a large result out in pieces."""

    async def manifest(self, id: str) -> View | None:
        """The files of a result; None where there is no complete tree."""

    async def save_file(self, id: str, name: str, to: Path) -> None:
        """Write a file of a result to `to`, which is replaced as a whole. Raises UnknownTask where the result has no such file."""

    async def workers(self) -> list[View]:
        """All that were ever seen: at least `worker_id` and `cost_per_hour`."""

    async def statistics(self, owner: str, start: str) -> View:
        """`by_type`, `by_model`, `by_owner` (of everyone), `start`, as `GET /api/v1/stats` gives them; `{"missing": why}` without a read model."""

    async def now_ms(self) -> int:
        """Its clock, which the times of tasks are in."""

    def following(self, *, with_logs: bool = False) -> AbstractAsyncContextManager[None]:
        """While this is open, `family` and `moved` follow what happens; `with_logs`: and `lines` what is said, each line given once."""

    async def family(self, ids: list[str]) -> list[View]:
        """The tasks and all their parts as they stand, parents before their parts; what is not known is left out."""

    async def moved(self, timeout_sec: float) -> None:
        """Until something happened, at most so long."""

    async def settle(self, ids: list[str]) -> None:
        """Wait a moment until the results of ended tasks are where people look for them."""

    def place(self, id: str) -> str:
        """Where a person finds the result, for the end of a line."""


def has_ended(view: View) -> bool:
    """Or waits for a person."""
    return view["state"] in FINAL or view["state"] == "dead_lettered"


def milliseconds(at: str | None) -> int:
    """A time of a view; 0 for never."""
    return int(datetime.fromisoformat(at).timestamp() * 1000) if at else 0
