"""Which tools there are, and how one is made for a question."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from langchain_core.tools import BaseTool
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.agent_settings import ToolChoice
from mloc.executors.contract import Context, ExecutorError, Progress

Options = TypeVar("Options", bound=Struct)


class Place(Struct, frozen=True):
    """Where a question's tools work: a folder of its own, the time that is left in seconds, whether to end, and who watches."""

    folder: Path
    left_sec: Callable[[], float]
    over: Callable[[], bool]
    say: Callable[[str], None]
    context: Context
    prepared: Any = None


class Ground(Struct, frozen=True):
    """What an attempt's tools are prepared from; what they open for all its questions, the stack closes."""

    attempt: int
    spec: TaskSpec
    context: Context
    stack: ExitStack


Preparation = Generator[Progress, None, Any]


class Kind(Struct, frozen=True):
    """`options`: the Struct that a task may set. `check` refuses options that mean nothing before a model is loaded. `prepare` does once
    what all questions share, which `make` finds in `Place.prepared`. `make` gives the tools of a question; what it opens, the stack closes."""

    options: type[Struct]
    make: Callable[[Any, Place, ExitStack], Iterable[BaseTool]]
    check: Callable[[Any, TaskSpec], None] = lambda options, spec: None
    prepare: Callable[[Any, Ground], Preparation] | None = None


def prepare_tools(chosen: Sequence[ToolChoice], ground: Ground) -> Generator[Progress, None, list[Any]]:
    """What the tools share over all questions, in the order of `chosen`. Raises ExecutorError where it cannot be had."""
    prepared: list[Any] = []
    for choice in chosen:
        kind = kind_of(choice.name)
        prepared.append((yield from kind.prepare(options_of(choice, kind.options), ground)) if kind.prepare is not None else None)
    return prepared


def open_tools(chosen: Sequence[ToolChoice], prepared: Sequence[Any], place: Place, stack: ExitStack) -> list[BaseTool]:
    """The tools for one question. Raises ExecutorError where one cannot be had."""
    made: list[BaseTool] = []
    for choice, own in zip(chosen, prepared, strict=True):
        kind = kind_of(choice.name)
        place.folder.mkdir(parents=True, exist_ok=True)
        made += kind.make(options_of(choice, kind.options), replace(place, prepared=own), stack)
    names = [tool.name for tool in made]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExecutorError("BadSetting", f"agent.tools: more than one tool is called {', '.join(sorted(twice))}")
    return made


def check_tools(chosen: Sequence[ToolChoice], spec: TaskSpec) -> None:
    """Raises ExecutorError for a tool that is unknown, or an option that means nothing."""
    for choice in chosen:
        kind = kind_of(choice.name)
        kind.check(options_of(choice, kind.options), spec)


def kind_of(name: str) -> Kind:
    kinds = _kinds()
    if name not in kinds:
        near = difflib.get_close_matches(name, list(kinds), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ExecutorError("UnknownTool", f"agent.tools: there is no tool {name!r}; there are {', '.join(kinds)}{hint}")
    return kinds[name]


def options_of(choice: ToolChoice, kind: type[Options]) -> Options:
    """The tool's options as its Struct. Raises ExecutorError with what is accepted."""
    try:
        return msgspec.convert(choice.options, kind, strict=False)
    except msgspec.ValidationError as error:
        accepted = ", ".join(kind.__struct_fields__) or "none"
        raise ExecutorError("BadSetting", f"agent.tools: {choice.name}: {error}; its options are {accepted}") from error


def _kinds() -> dict[str, Kind]:
    from mloc.executors.agents.tools import files, http_get, mcp_servers, python_repl, retrieval, web_search

    modules = {"web_search": web_search, "http_get": http_get, "retrieval": retrieval, "mcp": mcp_servers}
    return {"python_repl": python_repl.KIND, "files": files.KIND} | {name: module.KIND for name, module in modules.items()}
