"""What a file asks for, once it is read: for each document the tasks to submit, parents before their stages, stages in an order to run."""

from __future__ import annotations

from typing import Literal

import msgspec

from mloc.core.language.errors import Problem
from mloc.core.language.spec import Metadata, TaskSpec

MAX_TASKS = 256
"""Of one file; it is submitted whole or not at all."""


class PlannedTask(msgspec.Struct, frozen=True):
    """One task. Its id is that of the document's first task, with `.suffix` after it where there is one.

    `depends_on` and `children` hold suffixes of the same document; `external` ids or names of tasks submitted before."""

    suffix: str
    name: str
    role: Literal["task", "pipeline", "stage"]
    kind: str
    task_type: str
    spec: TaskSpec
    depends_on: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    def id(self, document_id: str) -> str:
        """The task's id, given the id of its document."""
        return f"{document_id}.{self.suffix}" if self.suffix else document_id


class Plan(msgspec.Struct, frozen=True):
    """One document: a task, or a pipeline's parent and its stages."""

    kind: str
    metadata: Metadata
    tasks: tuple[PlannedTask, ...]


class ReadResult(msgspec.Struct, frozen=True):
    """A file that is right, and what in it has no effect or may not mean what it seems to."""

    documents: tuple[Plan, ...]
    warnings: tuple[Problem, ...] = ()
