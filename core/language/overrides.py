"""`--set spec.x.y=value`: values put over those of a file before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mloc.core.language.errors import LanguageError, Path, Problem, shown
from mloc.core.language.value_paths import PathError, parse_path
from mloc.core.language.yaml_source import load_documents


def read_overrides(overrides: Mapping[str, str]) -> list[tuple[Path, Any]]:
    """Paths and YAML values. Raises LanguageError naming each that cannot be read."""
    read: list[tuple[Path, Any]] = []
    problems: list[Problem] = []
    for written, text in overrides.items():
        try:
            path = parse_path(written)
            if path[0] not in ("spec", "metadata", "kind") or "*" in path:
                raise PathError(f"{shown(written)} is no place in a task: write spec.… or metadata.…")
            values, wrong = load_documents(text)
            problems += [Problem(problem.message, path=written, found=shown(text), source="--set") for problem in wrong]
            read.append((path, values[0] if values else None))
        except PathError as error:
            problems.append(Problem(str(error), source="--set"))
        except LanguageError as error:
            problems += [Problem(problem.message, path=written, found=shown(text), source="--set") for problem in error.problems]
    if problems:
        raise LanguageError(problems)
    return read


def overridden(document: Any, path: Path, value: Any) -> Any:
    """The document with another value at a path; what is on the way is copied, missing mappings are made. Raises PathError."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    match document, step:
        case None, str():
            return {step: overridden(None, rest, value)}
        case dict(), str():
            return {**document, step: overridden(document.get(step), rest, value)}
        case list(), int() if step < len(document):
            return [*document[:step], overridden(document[step], rest, value), *document[step + 1 :]]
        case list(), _:
            raise PathError(f"there is no item {step} in a list of {len(document)}")
        case _:
            raise PathError(f"{shown(document)} holds no {shown(str(step))}")
