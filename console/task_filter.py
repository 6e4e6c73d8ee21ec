"""The filter of the task list: `state:failed,running kind:lora* -owner:ada age>5m text /re/`. All terms must hold."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from mloc.console.phases import TASK
from mloc.core.task import STATUS, Task

Test = Callable[[Task, int], bool]  # (task, now in ms)

EXAMPLE = "state:failed,running  kind:lora*  owner:ada  worker:gpu-0*  label:team=x  age>5m  -state:published  text  /regex/"
FIELDS: dict[str, Callable[[Task], str]] = {
    "state": lambda task: task.phase,
    "kind": lambda task: task.kind,
    "type": lambda task: task.task_type or "pipeline",
    "owner": lambda task: task.owner,
    "project": lambda task: task.project,
    "worker": lambda task: task.worker,
    "id": lambda task: task.id,
    "name": lambda task: task.name,
    "pipeline": lambda task: task.parent,
    "label": lambda task: "",
}
_STATES = {**{phase: {phase} for phase in TASK}, **{look.word.replace("-", "_"): {phase} for phase, look in TASK.items()}}
for _phase, _status in STATUS.items():
    _STATES.setdefault(_status.lower(), set()).add(_phase)
_AGE = re.compile(r"age\s*([<>])\s*(\d+(?:\.\d+)?)(s|m|h|d)")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class FilterError(ValueError):
    """The filter cannot be understood; the message says which term and what is accepted."""


def parse(text: str) -> Test | None:
    """A test for tasks; None for an empty filter. Raises FilterError."""
    tests = [_term(word) for word in re.findall(r"-?/(?:[^/\\]|\\.)*/|\S+", text)]
    return (lambda task, now: all(test(task, now) for test in tests)) if tests else None


def _term(word: str) -> Test:
    if word.startswith("-") and len(word) > 1:
        test = _term(word[1:])
        return lambda task, now: not test(task, now)
    if word.startswith("/") and word.endswith("/") and len(word) > 2:
        return _regex(word[1:-1])
    if age := _AGE.fullmatch(word):
        return _age(age[1], float(age[2]) * _UNIT_MS[age[3]])
    name, colon, value = word.partition(":")
    if not colon:
        if word.startswith("age"):
            raise FilterError(f"{word!r}: an age is written age>5m or age<30s (units s, m, h, d)")
        wanted = word.lower()
        return lambda task, now: wanted in task.id.lower() or wanted in task.name.lower() or wanted in task.reason.lower()
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, 1)
        raise FilterError(f"no field {name!r}{f', did you mean {near[0]}?' if near else ''} fields: {', '.join(FIELDS)}, age")
    if not value:
        raise FilterError(f"{word!r} lacks a value, as in {name}:{'running' if name == 'state' else 'x'}")
    return _state(value) if name == "state" else _label(value) if name == "label" else _glob(FIELDS[name], value)


def _state(value: str) -> Test:
    wanted: set[str] = set()
    for name in value.lower().replace("-", "_").split(","):
        if name not in _STATES:
            near = difflib.get_close_matches(name, _STATES, 1)
            raise FilterError(f"no state {name!r}{f', did you mean {near[0]}?' if near else ''} states: {', '.join(TASK)}")
        wanted |= _STATES[name]
    return lambda task, now: task.phase in wanted


def _glob(field: Callable[[Task], str], value: str) -> Test:
    patterns = value.lower().split(",")
    return lambda task, now: any(fnmatchcase(field(task).lower(), pattern) for pattern in patterns)


def _label(value: str) -> Test:
    key, equals, wanted = value.partition("=")
    return lambda task, now: key in task.labels and (not equals or fnmatchcase(task.labels[key], wanted))


def _age(sign: str, ms: float) -> Test:
    return lambda task, now: (now - task.submitted_ms > ms) == (sign == ">")


def _regex(pattern: str) -> Test:
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise FilterError(f"/{pattern}/ is no regular expression: {error}") from error
    return lambda task, now: bool(found.search(task.id) or found.search(task.name) or found.search(task.reason))
