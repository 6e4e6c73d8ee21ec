"""References: `${stage.result.path[0].to.value}` to what an earlier stage gave, `${env.NAME}` or `${NAME}` to a worker's environment.

Stage references may stand anywhere in a later stage. Environment names are resolved in settings and headers only, never in prompts or
rows, where `${NAME}` stays as it is written. `$${…}` stands for a literal `${…}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from mloc.core.language.errors import LanguageError, Path, Problem, did_you_mean, dotted, shown
from mloc.core.language.value_paths import PathError, look_up, parse_path

RESERVED_NAMES = frozenset(("env", "secret"))
"""Names that a stage may not have, because references to other things start with them."""

ALTERNATIVES = ("path", "url", "taskId")
"""Keys of one mapping of which the first that is there is used: a missing value is left out when another is there."""

WHOLE_REFERENCE = r"\$\{[^{}\n]{1,400}\}"
"""What a text looks like that is one reference and nothing else."""

_REFERENCE = re.compile(r"(\$?)\$\{([^{}\n]{1,400})\}")
_ENV_NAME = re.compile(r"(?:env\.)?([A-Za-z_][A-Za-z0-9_]{0,100})")
_STAGE_PATH = re.compile(r"([A-Za-z0-9_-]{1,63})\.((?:result|task_id|folder)(?:[.\[].*)?)")
_SECRET = re.compile(r"secret\.([A-Za-z0-9_.-]{1,200})")

_CONTENT: tuple[Path, ...] = (
    ("data", "items"), ("data", "messages"), ("data", "preferences"), ("data", "template"),
    ("inference", "system_prompt"), ("inference", "append_system_prompt"), ("inference", "prompts"), ("agent", "task"),
    ("retrieval", "documents"), ("data", "prompts"),
)  # fmt: skip


class Reference(msgspec.Struct, frozen=True):
    """One reference as it stands in a value. `name` is the stage, the variable or the secret; `steps` the path after it."""

    kind: Literal["stage", "env", "secret"]
    name: str
    steps: Path
    written: str


class FoundReference(msgspec.Struct, frozen=True):
    """A reference and the place of the value that holds it."""

    reference: Reference
    path: Path


def parse_reference(inside: str) -> Reference:
    """Read what stands between `${` and `}`. Raises PathError."""
    text = inside.strip()
    if stage := _STAGE_PATH.fullmatch(text):
        return Reference("stage", stage[1], parse_path(stage[2]), inside)
    if secret := _SECRET.fullmatch(text):
        return Reference("secret", secret[1], (), inside)
    if env := _ENV_NAME.fullmatch(text):
        return Reference("env", env[1], (), inside)
    raise PathError(f"{shown('${' + inside + '}')} is no reference: write ${{stage.result.path}} or ${{env.NAME}}")


def is_reference(value: object) -> bool:
    """Whether a value is one reference and nothing else: then the thing itself takes its place, of whatever type."""
    return isinstance(value, str) and value.startswith("${") and _REFERENCE.fullmatch(value) is not None


def find_references(
    value: Any, problems: list[tuple[Path, str]] | None = None, path: Path = (), as_text: list[tuple[Path, str]] | None = None
) -> Iterator[FoundReference]:
    """All references in a plain spec. What looks like one and is none is added to `problems` (place, message), but in prompts and rows,
    where it is just text, to `as_text` (place, what stands between the braces)."""
    for place, text in _texts(value, path):
        content = is_content(place)
        for match in _REFERENCE.finditer(text):
            if match[1]:
                continue
            try:
                reference = parse_reference(match[2])
            except PathError as error:
                if content and as_text is not None:
                    as_text.append((place, match[2]))
                elif not content and problems is not None:
                    problems.append((place, str(error)))
                continue
            if reference.kind == "stage" or not content:
                yield FoundReference(reference, place)


def is_content(path: Path) -> bool:
    """Whether a place under `spec` holds prompts or rows: nothing of a worker's environment gets there."""
    return any(path[: len(prefix)] == prefix for prefix in _CONTENT)


def resolve(value: Any, inputs: Mapping[str, Any], env: Mapping[str, str], secrets: Mapping[str, str] | None = None) -> Any:
    """A plain spec with every reference replaced. Raises LanguageError with all that is missing.

    `inputs`: stage name → {"result": …, "task_id": …}; `env`: the allowed names and their values; `secrets`: name → text.
    A text that is one reference becomes the value itself; inside of a longer text values are written out. What waits in the spec's
    `deferred` is put back into its place."""
    resolution = _Resolution(inputs, env, secrets or {})
    if isinstance(value, dict) and "deferred" in value:
        value = _with_deferred(value)
    resolved = resolution.value(value, ())
    if resolution.problems:
        raise LanguageError(resolution.problems)
    return resolved


class _Missing(Exception):
    pass


class _Resolution:
    """One pass over a spec, collecting what is missing."""

    def __init__(self, inputs: Mapping[str, Any], env: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        self.inputs, self.env, self.secrets = inputs, env, secrets
        self.problems: list[Problem] = []

    def value(self, value: Any, path: Path) -> Any:
        match value:
            case str():
                return self._reported(value, path) if "${" in value else value
            case dict():
                return self._mapping(value, path)
            case list() | tuple():
                return [self.value(item, (*path, at)) for at, item in enumerate(value)]
            case _:
                return value

    def _mapping(self, mapping: dict[str, Any], path: Path) -> dict[str, Any]:
        among = [name for name in ALTERNATIVES if mapping.get(name) is not None]
        if len(among) < 2 or is_content(path):
            return {name: self.value(item, (*path, name)) for name, item in mapping.items()}
        resolved: dict[str, Any] = {}
        missing: list[tuple[str, str]] = []
        for name, item in mapping.items():
            if name not in among:
                resolved[name] = self.value(item, (*path, name))
                continue
            try:
                found = self._text(item, (*path, name)) if isinstance(item, str) else item
                if found is None:
                    missing.append((name, "the value is null"))
                else:
                    resolved[name] = found
            except _Missing as error:
                missing.append((name, str(error)))
        if len(missing) == len(among):
            for name, message in missing:
                self._problem((*path, name), mapping[name], message, f"one of {', '.join(among)} must be there")
        return resolved

    def _reported(self, text: str, path: Path) -> Any:
        try:
            return self._text(text, path)
        except _Missing as error:
            self._problem(path, text, str(error))
            return text

    def _problem(self, path: Path, written: object, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, path=dotted(("spec", *path)), found=shown(written), hint=hint))

    def _text(self, text: str, path: Path) -> Any:
        content = is_content(path)
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and not whole[1]:
            return self._one(whole, content)

        def written(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:] if self._is_live(match[2], content) else match[0]
            found = self._one(match, content)
            if found is None:
                raise _Missing(f"the value of {match[0]} is null")
            return found if isinstance(found, str) else msgspec.json.encode(found).decode()

        return _REFERENCE.sub(written, text)

    def _is_live(self, inside: str, content: bool) -> bool:
        """Whether a reference would be resolved here, so that `$$` is an escape and not the writer's own text."""
        try:
            return parse_reference(inside).kind == "stage" or not content
        except PathError:
            return False

    def _one(self, match: re.Match[str], content: bool) -> Any:
        """What one reference stands for. Raises _Missing."""
        try:
            reference = parse_reference(match[2])
        except PathError as error:
            if content:
                return match[0]
            raise _Missing(str(error)) from None
        match reference.kind:
            case "stage":
                return self._stage(reference)
            case _ if content:
                return match[0]
            case "secret":
                return self._named(reference, self.secrets, "the secret is gone; submit the task again")
            case "env":
                return self._named(reference, self.env, "a worker resolves only names in WORKER_ENV_ALLOW that it has")

    def _named(self, reference: Reference, values: Mapping[str, str], why: str) -> str:
        if reference.name not in values:
            raise _Missing(f"${{{reference.written}}} has no value here: {why}")
        return values[reference.name]

    def _stage(self, reference: Reference) -> Any:
        if reference.name not in self.inputs:
            hint = did_you_mean(reference.name, self.inputs) or "the stages there are: " + (", ".join(sorted(self.inputs)) or "none")
            raise _Missing(f"${{{reference.written}}} names no stage that this task depends on; {hint}")
        try:
            return look_up(self.inputs[reference.name], reference.steps)
        except PathError as error:
            raise _Missing(f"the result of stage {shown(reference.name)} lacks ${{{reference.written}}}: {error}") from None


def _with_deferred(spec: dict[str, Any]) -> dict[str, Any]:
    whole: Any = {name: value for name, value in spec.items() if name != "deferred"}
    for deferred in spec["deferred"]:
        whole = _put(whole, tuple(deferred["path"]), deferred["reference"])
    return whole  # type: ignore[no-any-return]


def _put(value: Any, path: Path, reference: str) -> Any:
    if not path:
        return reference
    if isinstance(path[0], int):
        return [_put(item, path[1:], reference) if at == path[0] else item for at, item in enumerate(value)]
    inner = value or {}
    return {**inner, path[0]: _put(inner.get(path[0]), path[1:], reference)}


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Texts that hold a reference, with their places."""
    match value:
        case str():
            if "${" in value:
                yield path, value
        case dict():
            for name, item in value.items():
                yield from _texts(item, (*path, name))
        case list() | tuple():
            for at, item in enumerate(value):
                yield from _texts(item, (*path, at))
