"""`mloc-intake submit` and `validate`: each file whole or not at all."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.language.errors import LanguageError, Problem
from mloc.core.language.plan import Plan
from mloc.core.language.reading import read_tasks
from mloc.core.language.yaml_source import decode_text
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.opening import missing_is_wrong, open_source
from mloc.services.intake.commands.output import counted, print_json, say
from mloc.services.intake.commands.problems import show_problems
from mloc.services.intake.commands.source import Accepted, MaybeTaken, Prepared, Source, Unreachable, View
from mloc.services.intake.commands.wait import wait_for
from mloc.services.intake.local_paths import MissingIsWrong, local_files, with_absolute_paths
from mloc.services.intake.task_file import TaskFile, TaskFileError, files_of, read_named, read_template
from mloc.services.intake.task_ids import slug
from mloc.services.intake.task_names import UnknownTask
from mloc.services.intake.task_query import QueryError
from mloc.services.intake.task_requests import RequestRefused
from mloc.services.log.event_log import BacklogFull, KeyConflict, LogUnavailable
from mloc.services.settings import Settings
from mloc.services.shell_completion import remember

NOT_KNOWN = "it is not known whether it was submitted: `mloc-intake list` shows it; under an --idempotency-key it can be sent again without harm"
WRONG_SUBMISSIONS = (LanguageError, KeyConflict, BacklogFull, RequestRefused, QueryError, UnknownTask, MaybeTaken, LogUnavailable, Unreachable)


class Outcome(Struct):
    """What became of one file. `text` is the file's, to show what is wrong in it."""

    source: str
    text: bytes = b""
    code: int = codes.OK
    answer: View = {}
    error: View | None = None
    problems: tuple[Problem, ...] = ()
    tasks: list[str] = []
    is_known: bool = True  # False: the answer was lost on the way, and the tasks may be taken
    is_passing: bool = False  # it is not the file's fault: the same file may be taken later


def validate(settings: Settings, asked: argparse.Namespace) -> int:
    """Read each file as `submit` would, without an event log or an API."""
    prepared, outcomes = prepare_all(asked, missing_is_wrong=True)
    for outcome, right in prepared:
        names = [{"name": plan.metadata.name, "kind": plan.kind, "tasks": [task.name for task in plan.tasks]} for plan in right.plans]
        outcome.answer = {"documents": names, "warnings": [str(warning) for warning in right.warnings]}
        if not asked.json:
            show_problems(right.warnings, right.file.text, are_warnings=True)
            print(f"{right.file.source}: right; {_tasks_of(right.plans)}")
    return report(outcomes, asked.json, nothing_was_submitted=False)


def submit(settings: Settings, asked: argparse.Namespace) -> int:
    prepared, outcomes = prepare_all(asked, missing_is_wrong=missing_is_wrong(settings, asked))
    if not prepared:
        return report(outcomes, asked.json)
    return asyncio.run(_submit_all(settings, asked, prepared, outcomes))


def read_file(file: TaskFile, overrides: dict[str, str]) -> tuple[tuple[Plan, ...], tuple[Problem, ...]]:
    """The plans of a file with absolute paths, and warnings. Raises LanguageError."""
    prepared = prepare(file, overrides, missing_is_wrong=True)
    return prepared.plans, prepared.warnings


def prepare(file: TaskFile, overrides: dict[str, str], *, missing_is_wrong: MissingIsWrong) -> Prepared:
    """Raises LanguageError, also for a data file that is not there."""
    read = read_tasks(file.text, file.source, overrides)
    text = decode_text(file.text, file.source)
    plans, missing = with_absolute_paths(read.documents, file.folder, text, file.source, missing_is_wrong=missing_is_wrong)
    return Prepared(file, plans, read.warnings + missing, overrides, local_files(read.documents, file.folder))


def prepare_all(asked: argparse.Namespace, *, missing_is_wrong: MissingIsWrong) -> tuple[list[tuple[Outcome, Prepared]], list[Outcome]]:
    """The files that are right, and an outcome for each file, in the order of the command line."""
    files, outcomes = _read_all(asked)
    right: list[tuple[Outcome, Prepared]] = []
    for file in files:
        outcome = Outcome(file.source, file.text)
        outcomes.append(outcome)
        try:
            right.append((outcome, prepare(file, asked.set, missing_is_wrong=missing_is_wrong)))
        except LanguageError as error:
            refuse(outcome, error)
    return right, outcomes


async def _submit_all(
    settings: Settings, asked: argparse.Namespace, prepared: list[tuple[Outcome, Prepared]], outcomes: list[Outcome]
) -> int:
    """Each file by itself; a wrong one does not keep the others back."""
    async with open_source(settings, asked) as source:
        for outcome, right in prepared:
            key = asked.idempotency_key or ""
            if key and len(prepared) > 1:  # one key names one body
                key = f"{key}.{slug(Path(right.file.source).name)}"
            if asked.dry_run:
                await _dry_run_one(source, asked, outcome, right)
            else:
                await submit_one(source, outcome, right, key)
                if not asked.json:
                    _say_submitted(outcome, right, asked.quiet)
        tasks = [id for outcome in outcomes for id in outcome.tasks]
        if (asked.wait or asked.follow) and tasks:
            waited = await wait_for(source, tasks, as_json=asked.json, with_logs=asked.follow, quiet=asked.quiet)
            return max(report(outcomes, as_json=False), waited)
    return report(outcomes, asked.json)


async def submit_one(source: Source, outcome: Outcome, prepared: Prepared, key: str) -> None:
    """Submit a file, and note in `outcome` what became of it."""
    try:
        accepted = await source.submit(prepared, key)
    except WRONG_SUBMISSIONS as error:
        refuse(outcome, error)
        return
    outcome.tasks = accepted.roots
    remember(name for task in accepted.tasks if not task["parent"] for name in (task["task_id"], task["name"]))
    outcome.answer = _answer(accepted)


async def _dry_run_one(source: Source, asked: argparse.Namespace, outcome: Outcome, prepared: Prepared) -> None:
    try:
        outcome.answer = {"dry_run": True, **await source.dry_run(prepared)}
    except WRONG_SUBMISSIONS as error:
        refuse(outcome, error)
        return
    if not asked.json:
        _say_placements(prepared.file.source, outcome.answer)


def _answer(accepted: Accepted) -> View:
    ids = accepted.ids
    answer = {"task_id": ids[0], "task_ids": ids, "count": len(ids), "tasks": accepted.tasks, "warnings": accepted.warnings}
    return {**answer, "repeated": True} if accepted.repeated else answer


def _read_all(asked: argparse.Namespace) -> tuple[list[TaskFile], list[Outcome]]:
    """The files that can be read, and an outcome for each that cannot."""
    files: list[TaskFile] = []
    outcomes: list[Outcome] = []

    def read_each(names: Sequence[str], read: Callable[[str], TaskFile]) -> None:
        for name in names:
            with _refusing(name, outcomes):
                files.append(read(name))

    for name in asked.files:
        with _refusing(name, outcomes):
            read_each(files_of(name), read_named)
    read_each(asked.template, read_template)
    return files, outcomes


@contextlib.contextmanager
def _refusing(name: str, outcomes: list[Outcome]) -> Iterator[None]:
    """A file that cannot be read is an outcome of its own, and keeps no other back."""
    try:
        yield
    except TaskFileError as error:
        outcome = Outcome(name)
        refuse(outcome, error)
        outcomes.append(outcome)


def refuse(outcome: Outcome, error: Exception) -> None:
    """Note what is wrong with a file."""
    outcome.error = {"message": str(error)}
    match error:
        case LanguageError(problems=problems):
            outcome.problems = problems
            outcome.error["problems"] = [msgspec.to_builtins(problem) for problem in problems]
            outcome.code = codes.INVALID
        case KeyConflict() | BacklogFull() | RequestRefused():
            outcome.code = codes.REFUSED
        case LogUnavailable() | Unreachable() | MaybeTaken():
            outcome.code = codes.UNREACHABLE
        case _:
            outcome.code = codes.INVALID
    outcome.is_passing = isinstance(error, BacklogFull | LogUnavailable | Unreachable | MaybeTaken)
    if isinstance(error, MaybeTaken):
        outcome.is_known = False
        outcome.error["hint"] = NOT_KNOWN


def report(outcomes: list[Outcome], as_json: bool, *, nothing_was_submitted: bool = True) -> int:
    """Say what went wrong with which file; gives the exit code."""
    wrong = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in [] if as_json else wrong:
        say_wrong(outcome)
        if not outcome.is_known:
            say(f"{outcome.source}: {NOT_KNOWN}")
        elif nothing_was_submitted:
            say(f"{outcome.source}: nothing was submitted of this file\n" if len(outcomes) > 1 else "nothing was submitted")
    if not as_json and len(outcomes) > 1 and wrong:
        say(f"{len(wrong)} of {counted(len(outcomes), 'file')} {'is' if len(wrong) == 1 else 'are'} wrong")
    if as_json:
        shown = [{"source": o.source, "ok": o.error is None, **o.answer, **({"error": o.error} if o.error else {})} for o in outcomes]
        print_json(shown[0] if len(shown) == 1 else {"ok": not wrong, "files": shown})
    return max((outcome.code for outcome in outcomes), default=codes.OK)


def say_wrong(outcome: Outcome) -> None:
    """What is wrong with a file, for people."""
    if outcome.problems:
        show_problems(outcome.problems, outcome.text)
    elif outcome.error is not None:
        say(str(outcome.error["message"]))


def _say_submitted(outcome: Outcome, prepared: Prepared, quiet: bool) -> None:
    if outcome.error is not None:
        return
    texts = {str(warning) for warning in prepared.warnings}
    if not quiet:
        show_problems(prepared.warnings, prepared.file.text, are_warnings=True)
        _say_warnings([warning for warning in outcome.answer["warnings"] if warning not in texts])
    for id in outcome.tasks:
        parts = sum(task.startswith(id + ".") for task in outcome.answer["task_ids"])
        how = "already submitted" if outcome.answer.get("repeated") else "submitted"
        print(f"{how} {id}" + (f" with {counted(parts, 'stage')}" if parts else ""), flush=True)


def _say_placements(source: str, answer: dict[str, Any]) -> None:
    _say_warnings(answer["warnings"])
    print(f"{source}: right; nothing was submitted")
    for task in answer["tasks"]:
        print(f"  {task['name'] or task['task_type']} ({task['task_type']})" + (f": {_placed(task['placement'])}" if task["placement"] else ""))


def _placed(placement: View) -> str:
    """Where it would go now, or why not and the smallest change that would let it run."""
    if placement["worker"]:
        return f"{placement['summary']}, for worker {placement['worker']}"
    return str(placement["summary"]) + (f"; {placement['change']}" if placement["change"] else "")


def _say_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")


def _tasks_of(plans: Sequence[Plan]) -> str:
    tasks = sum(1 for plan in plans for task in plan.tasks if task.role != "pipeline")
    pipelines = sum(1 for plan in plans for task in plan.tasks if task.role == "pipeline")
    return counted(tasks, "task") + (f" in {counted(pipelines, 'pipeline')}" if pipelines else "")
