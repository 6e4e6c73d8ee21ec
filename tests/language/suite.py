"""The suite of task files: what each is read as, or refused with. `python tests/language/suite.py` writes the expectations anew; look at
every line that `git diff` shows then, as the person who gets the message would.

Run it in the repository's root, with the environment that runs the tests (PYTHONPATH=typings)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.language.errors import LanguageError, Problem
from mloc.core.language.plan import Plan, PlannedTask
from mloc.core.language.reading import read_tasks
from mloc.core.needs.need import need_of, parallel_of

HERE = Path(__file__).parent
VALID = sorted((HERE / "valid").glob("*.yaml"))
BROKEN = sorted((HERE / "broken").glob("*.yaml"))
_SHOWN = ("path", "line", "column", "message", "found", "accepted", "hint")


def outcome(file: Path) -> Any:
    """What reading the file gives, as its expectation says it: JSON values."""
    return json.loads(msgspec.json.encode(_outcome(file)))


def _outcome(file: Path) -> Any:
    try:
        read = read_tasks(file.read_bytes(), file.name)
    except LanguageError as error:
        return [_problem(problem) for problem in error.problems]
    return {"documents": [_plan(plan) for plan in read.documents], "warnings": [_problem(warning) for warning in read.warnings]}


def expected(file: Path) -> Any:
    return json.loads(file.with_suffix(".json").read_text())


def _problem(problem: Problem) -> dict[str, Any]:
    return {name: value for name in _SHOWN if (value := getattr(problem, name))}


def _plan(plan: Plan) -> dict[str, Any]:
    return {"kind": plan.kind, "metadata": msgspec.to_builtins(plan.metadata), "tasks": [_task(task) for task in plan.tasks]}


def _task(task: PlannedTask) -> dict[str, Any]:
    shown = msgspec.to_builtins(task)
    spec = shown.pop("spec")
    if task.role == "pipeline":
        return {name: value for name, value in shown.items() if value not in ("", ())} | {"spec": spec}
    parallel = parallel_of(task.spec)
    whole = shown | {"need": msgspec.to_builtins(need_of(task.spec)), "parallel": msgspec.to_builtins(parallel) if parallel else None, "spec": spec}
    return {name: value for name, value in whole.items() if value not in ("", None, ())}


def main() -> None:
    for file in VALID + BROKEN:
        text = json.dumps(outcome(file), indent=1, ensure_ascii=False) + "\n"
        golden = file.with_suffix(".json")
        if not golden.exists() or golden.read_text() != text:
            golden.write_text(text)
            print(f"wrote {golden.relative_to(HERE)}")
    for golden in HERE.glob("*/*.json"):
        if not golden.with_suffix(".yaml").exists():
            golden.unlink()
            print(f"removed {golden.relative_to(HERE)}")


if __name__ == "__main__":
    main()
