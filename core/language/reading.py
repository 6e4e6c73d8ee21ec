"""From the text of a file to its plan: everything that is wrong at once, with places, or the tasks to submit.

    read_tasks(text) = decode → YAML values → overrides → each document: shape → stages merged → specs → references → order
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mloc.core.language.conformance import Conformance
from mloc.core.language.errors import MAX_PROBLEMS, LanguageError, Path, Problem, dotted, shown
from mloc.core.language.expansion import expand
from mloc.core.language.findings import Finding, Findings, TooMany
from mloc.core.language.overrides import overridden, read_overrides
from mloc.core.language.plan import MAX_TASKS, Plan, ReadResult
from mloc.core.language.spec import API_VERSION, Document
from mloc.core.language.stages import Surroundings
from mloc.core.language.value_paths import PathError
from mloc.core.language.yaml_positions import YamlPositions
from mloc.core.language.yaml_source import decode_text, load_documents


def read_tasks(
    text: bytes | str, source: str = "", overrides: Mapping[str, str] | None = None, plugin_types: frozenset[str] = frozenset()
) -> ReadResult:
    """Read a task file. Raises LanguageError with every problem that was found, in the order of the file.

    `source` is the file's name for messages; `overrides` are paths and YAML values as `--set` takes them, put over every document."""
    decoded = decode_text(text, source)
    positions = YamlPositions(decoded, source)
    try:
        documents, problems = load_documents(decoded)
    except LanguageError as error:
        raise LanguageError([_with_hint(positions.at_line(one, one.line, one.column), decoded) for one in error.problems]) from None
    reading = _Reading(positions, read_overrides(overrides or {}), plugin_types, "${" in decoded or "${" in str(overrides or ""))
    reading.places_of_yaml = {(problem.line, problem.column) for problem in problems}
    reading.problems += [positions.at_line(problem, problem.line, problem.column) for problem in problems]
    plans = reading.plans(documents)
    if reading.problems:
        raise LanguageError(_in_file_order(reading.problems))
    return ReadResult(plans, tuple(_in_file_order(reading.warnings)))


class _Reading:
    """One file on its way to a plan, collecting problems and warnings with their places."""

    def __init__(
        self, positions: YamlPositions, overrides: list[tuple[Path, Any]], plugin_types: frozenset[str], has_references: bool
    ) -> None:
        self.positions = positions
        self.overrides = overrides
        self.plugin_types = plugin_types
        self.has_references = has_references
        self.places_of_yaml: set[tuple[int, int]] = set()
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def plans(self, documents: list[Any]) -> tuple[Plan, ...]:
        plans: list[Plan] = []
        for index, document in enumerate(documents):
            if document is None:
                continue
            try:
                plan = self._plan(index, document)
            except TooMany:
                break
            if plan is not None:
                plans.append(plan)
            if sum(len(one.tasks) for one in plans) > MAX_TASKS:
                self._wrong("the file holds too many tasks", accepted=f"at most {MAX_TASKS}", hint="submit it in several files")
                break
        if not plans and not self.problems:
            self._wrong("the file holds no task", accepted=f"apiVersion: {API_VERSION}, kind, metadata, spec")
        return tuple(plans)

    def _plan(self, index: int, document: Any) -> Plan | None:
        if not isinstance(document, dict):
            self._report(index, self._no_mapping(document), lambda path: path)
            return None
        document = self._with_overrides(document)
        shape = self._shape(index, document)
        if shape is None:
            return None
        around = Surroundings(
            kind=shape.kind, name=shape.metadata.name, plugin_types=self.plugin_types, has_references=self.has_references,
            writes=lambda path: self.positions.writes(index, path),
            report=lambda findings, written: self._report(index, findings, written),
        )  # fmt: skip
        before = len(self.problems)
        tasks = expand(shape.spec, around)
        return Plan(shape.kind, shape.metadata, tasks) if tasks and len(self.problems) == before else None

    def _shape(self, index: int, document: dict[str, Any]) -> Document | None:
        """The document around its spec."""
        try:
            return msgspec.convert(document, Document)
        except msgspec.ValidationError:
            pass  # the walk says what is wrong, and reads what is only written otherwise
        findings = Findings()
        try:
            checked = Conformance(findings).check(document, Document, at_intake=True)
        finally:
            self._report(index, findings, lambda path: path)
        if not findings.problems:
            return msgspec.convert(checked, Document)
        if isinstance(document.get("spec"), dict) and all(finding.path[:1] != ("spec",) for finding in findings.problems):
            return Document(API_VERSION, document["spec"])  # so that what is wrong in the spec is said in the same go
        return None

    def _with_overrides(self, document: dict[str, Any]) -> dict[str, Any]:
        for path, value in self.overrides:
            try:
                document = overridden(document, path, value)
            except PathError as error:
                self.problems.append(Problem(str(error), path=dotted(path), source="--set"))
        return document

    def _no_mapping(self, document: Any) -> Findings:
        findings = Findings()
        hint = ""
        if isinstance(document, str) and "apiVersion" in document:
            hint = "the text lost its line breaks; with curl use --data-binary"
        findings.wrong((), "a document must be a mapping", found=shown(document), accepted="apiVersion, kind, metadata, spec", hint=hint)
        return findings

    def _report(self, index: int, findings: Findings, written: Callable[[Path], Path]) -> None:
        for finding in findings.problems:
            self._keep(self.problems, self._located(finding, index, written(finding.path)))
        for finding in findings.warnings:
            self._keep(self.warnings, self._located(finding, index, written(finding.path)))
        if len(self.problems) >= MAX_PROBLEMS:
            raise TooMany

    def _located(self, finding: Finding, index: int, path: Path) -> Problem:
        """Where it stands in the file, unless it does not: what `--set` gave is said to be its."""
        if any(path[: len(given)] == given for given, _ in self.overrides):
            return msgspec.structs.replace(finding.problem, path=dotted(path), source="--set")
        return self.positions.located(finding.problem, index, path, finding.at_key)

    def _keep(self, kept: list[Problem], problem: Problem) -> None:
        """Once: what all stages share is wrong in each of them. What follows from a repeated key or a tag is not said."""
        if (problem.line, problem.column) not in self.places_of_yaml and problem not in kept and len(kept) < MAX_PROBLEMS:
            kept.append(problem)

    def _wrong(self, message: str, accepted: str = "", hint: str = "") -> None:
        self.problems.append(Problem(message, accepted=accepted, hint=hint, source=self.positions.source))


def _with_hint(problem: Problem, text: str) -> Problem:
    """Broken YAML in a single line that starts like a task has lost its line breaks on the way."""
    if "\n" not in text.strip() and text.lstrip().startswith("apiVersion:") and "kind:" in text:
        return msgspec.structs.replace(problem, hint="the text lost its line breaks; with curl use --data-binary")
    return problem


def _in_file_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line or 1 << 30, problem.column))
