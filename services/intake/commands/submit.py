"""`mloc-intake submit` and `validate`: each file whole or not at all."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.explain import explain_need
from mloc.core.language.errors import LanguageError, Problem, render
from mloc.core.language.plan import Plan
from mloc.core.language.reading import read_tasks
from mloc.core.language.yaml_source import decode_text
from mloc.services.clock import SystemClock
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.log_session import Session, opened
from mloc.services.intake.commands.output import print_json, say
from mloc.services.intake.commands.wait import wait_for
from mloc.services.intake.destinations import destination_warnings
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.local_paths import with_absolute_paths
from mloc.services.intake.submission import ModelDefaults, Submission, submission_of, unoffered_types
from mloc.services.intake.submitter import Submitter
from mloc.services.intake.task_file import TaskFile, TaskFileError, files_of, read_named, read_template
from mloc.services.intake.task_ids import slug
from mloc.services.intake.views import accepted_view
from mloc.services.log.event_log import BacklogFull, KeyConflict, LogUnavailable
from mloc.services.settings import Settings

NOT_KNOWN = "it is not known whether it was submitted: `mloc-intake list` shows it; under an --idempotency-key it can be sent again without harm"
LOOK_AT_WORKERS_SEC = 1.0  # a long log is not folded just to warn


class Outcome(Struct):
    """What became of one file."""

    source: str
    code: int = codes.OK
    answer: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    tasks: list[str] = []
    is_known: bool = True  # False: the log was lost on the way, and may have taken it


def validate(settings: Settings, asked: argparse.Namespace) -> int:
    """Read each file as `submit` would, without an event log."""
    files, outcomes = _read_all(asked)
    for file in files:
        outcome = Outcome(file.source)
        outcomes.append(outcome)
        try:
            plans, warnings = read_file(file, asked.set)
        except LanguageError as error:
            _refuse(outcome, codes.INVALID, error)
            continue
        names = [{"name": plan.metadata.name, "kind": plan.kind, "tasks": [task.name for task in plan.tasks]} for plan in plans]
        outcome.answer = {"documents": names, "warnings": [str(warning) for warning in warnings]}
        if not asked.json:
            _say_warnings(outcome.answer["warnings"])
            print(f"{file.source}: right; {_counted(plans)}")
    return _report(outcomes, asked.json)


def submit(settings: Settings, asked: argparse.Namespace) -> int:
    files, outcomes = _read_all(asked)
    return asyncio.run(_submit_all(settings, asked, files, outcomes))


def read_file(file: TaskFile, overrides: dict[str, str]) -> tuple[tuple[Plan, ...], tuple[Problem, ...]]:
    """The plans of a file with absolute paths, and warnings. Raises LanguageError."""
    read = read_tasks(file.text, file.source, overrides)
    plans, missing = with_absolute_paths(read.documents, file.folder, decode_text(file.text, file.source), file.source)
    return plans, read.warnings + missing


async def _submit_all(settings: Settings, asked: argparse.Namespace, files: list[TaskFile], outcomes: list[Outcome]) -> int:
    """Each file by itself; a wrong one does not keep the others back. The log is opened only where there is something to submit."""
    right: list[tuple[Outcome, TaskFile, tuple[Plan, ...], tuple[Problem, ...]]] = []
    for file in files:
        outcome = Outcome(file.source)
        outcomes.append(outcome)
        try:
            right.append((outcome, file, *read_file(file, asked.set)))
        except LanguageError as error:
            _refuse(outcome, codes.INVALID, error)
    if not right:
        return _report(outcomes, asked.json)
    async with opened(settings, catch_up=False) as session:
        submitter = Submitter(session.log, SystemClock(), settings.backlog_limit)
        for outcome, file, plans, warnings in right:
            await _look_at_cluster(session, plans, asked)
            key = asked.idempotency_key or ""
            if key and len(right) > 1:  # one key names one body
                key = f"{key}.{slug(Path(file.source).name)}"
            await _submit_one(session, submitter, asked, outcome, file, plans, [str(warning) for warning in warnings], key)
        tasks = [id for outcome in outcomes for id in outcome.tasks]
        if (asked.wait or asked.follow) and tasks:
            return max(_report(outcomes, as_json=False), await wait_for(session, tasks, as_json=asked.json, with_logs=asked.follow))
    return _report(outcomes, asked.json)


async def _submit_one(
    session: Session, submitter: Submitter, asked: argparse.Namespace, outcome: Outcome, file: TaskFile, plans: tuple[Plan, ...],
    warnings: list[str], key: str,
) -> None:  # fmt: skip
    settings = session.settings
    try:
        submission = submission_of(
            plans, new_id=session.ids.new, known=KnownTasks(session.cluster, session.results_dir),
            defaults=ModelDefaults(settings.vllm_model or "", settings.ppo_model or ""),
            key=key, body_sha256=hashlib.sha256(file.text).hexdigest() if key else "",
        )  # fmt: skip
        if session.results_dir.is_dir():  # else this machine knows nothing of the aggregator's folders
            warnings += destination_warnings(plans, session.results_dir, settings.allowed_output_roots)
        if session.observer.caught_up:
            warnings += unoffered_types(submission.events, _offered(session))
        if asked.dry_run:
            outcome.answer = _dry_run(session, submission, warnings)
            if not asked.json:
                _say_placements(file.source, outcome.answer)
            return
        await session.log.run_id()  # a log that cannot be reached has taken nothing
        outcome.is_known = False
        submitted = await submitter.submit(submission, session.cluster.open_count() if session.observer.caught_up else 0)
    except LanguageError as error:
        _refuse(outcome, codes.INVALID, error)
    except (KeyConflict, BacklogFull) as error:
        outcome.is_known = True
        _refuse(outcome, codes.REFUSED, error)
    except LogUnavailable as error:
        _refuse(outcome, codes.UNREACHABLE, error)
    else:
        shown = [accepted_view(event) for event in submission.events] if not submitted.repeated else [{"task_id": id} for id in submitted.tasks]
        outcome.tasks = [event.task for event in submission.roots] if not submitted.repeated else [id for id in submitted.tasks if "." not in id]
        outcome.answer = {
            "task_id": submitted.tasks[0], "task_ids": list(submitted.tasks), "count": len(submitted.tasks), "tasks": shown, "warnings": warnings,
        }  # fmt: skip
        if submitted.repeated:
            outcome.answer["repeated"] = True
        if not asked.json:
            _say_warnings(warnings)
            for id in outcome.tasks:
                parts = sum(task.startswith(id + ".") for task in submitted.tasks)
                print(f"{'already submitted' if submitted.repeated else 'submitted'} {id}" + (f" with {parts} stages" if parts else ""), flush=True)


async def _look_at_cluster(session: Session, plans: Sequence[Plan], asked: argparse.Namespace) -> None:
    """Fold the log where the answer needs it; else only as far as a second goes, for the warning that no worker takes the type."""
    if asked.dry_run or any(task.external for plan in plans for task in plan.tasks):
        await session.observer.catch_up()
    elif not session.observer.caught_up:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AT_WORKERS_SEC):
                await session.observer.catch_up()


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
        _refuse(outcome, codes.INVALID, error)
        outcomes.append(outcome)


def _refuse(outcome: Outcome, code: int, error: Exception) -> None:
    outcome.code = code
    outcome.error = {"message": str(error)}
    if isinstance(error, LanguageError):
        outcome.error["problems"] = [msgspec.to_builtins(problem) for problem in error.problems]
        outcome.error["text"] = render(error.problems)


def _report(outcomes: list[Outcome], as_json: bool) -> int:
    """Say what went wrong with which file; gives the exit code."""
    wrong = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in wrong:
        assert outcome.error is not None
        text = outcome.error.pop("text", "") or f"{outcome.error['message']}"
        if not outcome.is_known:
            outcome.error["hint"] = NOT_KNOWN
        if not as_json:
            say(text)
            several = len(outcomes) > 1
            said = NOT_KNOWN if not outcome.is_known else "nothing was submitted of this file" if several else "nothing was submitted"
            say(f"{outcome.source}: {said}\n" if several else said)
    if as_json:
        shown = [{"source": o.source, "ok": o.error is None, **o.answer, **({"error": o.error} if o.error else {})} for o in outcomes]
        print_json(shown[0] if len(shown) == 1 else {"ok": not wrong, "files": shown})
    return max((outcome.code for outcome in outcomes), default=codes.OK)


def _offered(session: Session) -> frozenset[str]:
    return frozenset[str]().union(*(worker.task_types for worker in session.cluster.workers.values() if worker.phase == "alive"))


def _dry_run(session: Session, submission: Submission, warnings: list[str]) -> dict[str, Any]:
    tasks = [
        {
            "name": event.name, "task_type": event.task_type or "pipeline",
            "placement": msgspec.to_builtins(explain_need(session.cluster, event.need)) if event.need else None,
        }
        for event in submission.events
    ]  # fmt: skip
    return {"dry_run": True, "tasks": tasks, "warnings": warnings}


def _say_placements(source: str, answer: dict[str, Any]) -> None:
    _say_warnings(answer["warnings"])
    print(f"{source}: right; nothing was submitted")
    for task in answer["tasks"]:
        print(f"  {task['name'] or task['task_type']} ({task['task_type']})" + (f": {task['placement']['summary']}" if task["placement"] else ""))


def _say_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")


def _counted(plans: Sequence[Plan]) -> str:
    tasks = sum(1 for plan in plans for task in plan.tasks if task.role != "pipeline")
    pipelines = sum(1 for plan in plans for task in plan.tasks if task.role == "pipeline")
    text = f"{tasks} task{'' if tasks == 1 else 's'}"
    return f"{text} in {pipelines} pipeline{'' if pipelines == 1 else 's'}" if pipelines else text
