"""From a file's plans to the events of its submission: ids given, dependencies found, secrets taken out. Pure: ids and answers come in.

    submission = submission_of(plans, new_id=ids.new, known=KnownTasks(cluster, …), defaults=ModelDefaults(…), key=…, body_sha256=…)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Raw, Struct
from msgspec.structs import replace

from mloc.core.events import TaskSubmitted
from mloc.core.language.errors import LanguageError, Problem
from mloc.core.language.model_spec import HuggingFaceSource
from mloc.core.language.plan import MAX_TASKS, Plan, PlannedTask
from mloc.core.language.secrets import may_hold_secrets, move_secrets
from mloc.core.language.spec import TaskSpec, encode_spec
from mloc.core.language.task_types import TRAINING
from mloc.core.needs.engine_key import engine_key
from mloc.core.needs.need import inline_items, kind_of, model_of, need_of, parallel_of
from mloc.core.needs.receivers import receivers_of
from mloc.core.worker import Worker, not_offered

MAX_SPEC_BYTES = 1 << 20
_MODEL_TASKS = frozenset({"inference", *TRAINING})


class Submission(Struct, frozen=True):
    """One file, ready to be appended whole. `secrets`: task → name → value, to be stored before the events."""

    events: tuple[TaskSubmitted, ...]
    secrets: dict[str, dict[str, str]] = {}
    key: str = ""
    body_sha256: str = ""

    @property
    def roots(self) -> tuple[TaskSubmitted, ...]:
        """The first task of each document."""
        return tuple(event for event in self.events if not event.parent)


class ModelDefaults(NamedTuple):
    """Models of tasks that name none."""

    inference: str = ""
    training: str = ""


class Found(NamedTuple):
    """A task that a file depends on; `result_id` where its result is published ("" where its entry is not known any more)."""

    id: str
    result_id: str | None = None


class KnownTasks(Protocol):
    """Where ids and names of earlier tasks are looked up."""

    def find(self, id_or_name: str) -> Found:
        """Raises DependencyError where there is none that a task can wait for."""


class DependencyError(Exception):
    """A `dependsOn` that cannot be met; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def submission_of(
    plans: Sequence[Plan], *, new_id: Callable[[str], str], known: KnownTasks, defaults: ModelDefaults, key: str = "", body_sha256: str = ""
) -> Submission:
    """All tasks of a file, parents before their stages. Raises LanguageError."""
    if sum(len(plan.tasks) for plan in plans) > MAX_TASKS:
        raise LanguageError([Problem(f"the file has more than {MAX_TASKS} tasks", hint="split it into several files")])
    in_file: dict[str, str] = {}  # name of an earlier document's task → id
    events: list[TaskSubmitted] = []
    secrets: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    for plan in plans:
        document_id = new_id(plan.metadata.name or plan.tasks[0].name or plan.kind)
        ids = {task.suffix: task.id(document_id) for task in plan.tasks}
        for task in plan.tasks:
            try:
                depends_on, met = _dependencies(task, ids, in_file, known)
                event, hidden = _event(plan, task, ids, depends_on, met, defaults)
            except LanguageError as error:
                problems += error.problems
                continue
            events.append(event if not key else replace(event, idempotency_key=key, body_sha256=body_sha256))
            if hidden:
                secrets[event.task] = hidden
        in_file[plan.metadata.name or document_id] = document_id
    if problems:
        raise LanguageError(problems)
    return Submission(tuple(events), secrets, key, body_sha256)


def unoffered_types(events: Sequence[TaskSubmitted], workers: Iterable[Worker]) -> list[str]:
    """A warning for each task type, or part of one, that no living worker takes."""
    alive = [worker for worker in workers if worker.phase == "alive"]
    kinds = {(event.need.task_type, event.need.parts): event.need for event in events if event.need is not None}
    missing = [need for _, need in sorted(kinds.items()) if all(not_offered(worker, need) for worker in alive)]
    return [f"no living worker takes tasks of {kind_of(need)}; they wait until one does" for need in missing]


def _event(
    plan: Plan, task: PlannedTask, ids: Mapping[str, str], depends_on: tuple[str, ...], met: dict[str, str], defaults: ModelDefaults
) -> tuple[TaskSubmitted, dict[str, str]]:
    """The task's event, and the secrets that it needs."""
    metadata = plan.metadata
    secrets: dict[str, str] = {}
    if task.role == "pipeline":
        told = task.spec
        if may_hold_secrets(told):
            told, secrets = move_secrets(told)
        return TaskSubmitted(
            task=ids[task.suffix], name=task.name, kind=task.kind, owner=metadata.owner, project=metadata.project, labels=metadata.labels,
            priority=task.spec.slo.priority, children=tuple(ids[child] for child in task.children), receivers=receivers_of(told, is_pipeline=True),
            has_secrets=bool(secrets), ttl_sec=told.ttl_sec or 0.0,
        ), secrets  # fmt: skip
    spec = _with_model(task, defaults)
    encoded = encode_spec(spec)
    if may_hold_secrets(spec):
        spec, secrets = move_secrets(spec)
        encoded = encode_spec(spec)
    if len(encoded) > MAX_SPEC_BYTES:
        raise _problem(task, f"the task is {len(encoded):,} bytes long", f"at most {MAX_SPEC_BYTES:,} bytes; put its data into a jsonl file")
    stages = {name: ids[name] for name in task.depends_on}
    retry = spec.retry
    return TaskSubmitted(
        task=ids[task.suffix], name=task.name, kind=task.kind, task_type=spec.task_type, spec=Raw(encoded),
        spec_digest=hashlib.sha256(encoded).hexdigest(), need=need_of(spec, engine_key(spec.task_type, encoded, stages)),
        owner=metadata.owner, project=metadata.project, labels=metadata.labels, priority=spec.slo.priority,
        parent=ids[""] if task.role == "stage" else "", stage=task.suffix if task.role == "stage" else "",
        depends_on=depends_on, met=met, parallel=parallel_of(spec), items=inline_items(spec),
        max_attempts=retry.max_attempts, backoff_sec=retry.backoff_sec, timeout_sec=spec.timeout_sec or 0.0,
        receivers=receivers_of(spec), has_secrets=bool(secrets), model=model_of(spec), ttl_sec=spec.ttl_sec or 0.0,
    ), secrets  # fmt: skip


def _dependencies(
    task: PlannedTask, ids: Mapping[str, str], in_file: Mapping[str, str], known: KnownTasks
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Ids that the task waits for, and those of them whose results are published: id → entry of the result.

    What a pipeline waits for, its first stages wait for; the parent itself does nothing."""
    if task.role == "pipeline":
        return (), {}
    if not task.external:
        return tuple(ids[suffix] for suffix in task.depends_on), {}
    found: dict[str, None] = dict.fromkeys(ids[suffix] for suffix in task.depends_on)
    met: dict[str, str] = {}
    for name in task.external:
        if name in in_file:
            found[in_file[name]] = None
            continue
        try:
            earlier = known.find(name)
        except DependencyError as error:
            raise _problem(task, str(error), error.hint, "spec.dependsOn") from error
        found[earlier.id] = None
        if earlier.result_id is not None:
            met[earlier.id] = earlier.result_id
    return tuple(found), met


def _with_model(task: PlannedTask, defaults: ModelDefaults) -> TaskSpec:
    """The spec with the default model where it names none."""
    spec = task.spec
    if spec.model.source is not None or spec.task_type not in _MODEL_TASKS:
        return spec
    if any(one.path[:2] in (("model",), ("model", "source")) for one in spec.deferred):
        return spec
    training = spec.task_type in TRAINING
    default = defaults.training if training else defaults.inference
    if not default:
        variable = "PPO_MODEL" if training else "VLLM_MODEL"
        raise _problem(task, f"a task of type {spec.task_type} needs a model", f"add model.source, or set {variable}", "spec.model.source")
    return replace(spec, model=replace(spec.model, source=HuggingFaceSource(identifier=default)))


def _problem(task: PlannedTask, message: str, hint: str, path: str = "spec") -> LanguageError:
    where = f"{task.suffix}: {path}" if task.role == "stage" else path
    return LanguageError([Problem(message, path=where, hint=hint)])
