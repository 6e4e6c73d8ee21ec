"""`spec.agent`, read and checked before a model is loaded."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from mloc.core.language.agent_rules import tool_named
from mloc.core.language.passthrough_names import AGENT
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError

TYPES = ("react",)
TOOL_CALLS = ("auto", "native", "text")
DEFAULT_MAX_STEPS = 10


class ToolChoice(Struct, frozen=True):
    """A tool and its options, as the task asks for it."""

    name: str
    options: dict[str, Any] = {}


class AgentSettings(Struct, frozen=True, kw_only=True):
    """`timeout` in seconds for one question, `max_steps` calls of the model, `max_total_tokens` read and written, all for one question."""

    task: str = ""
    system_prompt: str = ""
    tools: tuple[ToolChoice, ...] = ()
    max_steps: int = DEFAULT_MAX_STEPS
    timeout: float | None = None
    max_total_tokens: int | None = None
    tool_calls: str = "auto"
    sampling: dict[str, Any] = {}  # what `inference` leaves open


def agent_settings(spec: TaskSpec, context: Context) -> AgentSettings:
    """Raises ExecutorError for names and values that mean nothing here."""
    given = {**_of_file(spec.agent.get("config_name"), context), **{name: value for name, value in spec.agent.items() if value is not None}}
    for name in given:
        if name not in AGENT.kinds:
            raise ExecutorError("UnknownSetting", f"agent.{name} is not known{_near(name, AGENT.kinds)}")
    _one_of(given.get("type", "react"), TYPES, "agent.type")
    tool_calls = _one_of(given.get("tool_calls", "auto"), TOOL_CALLS, "agent.tool_calls")
    max_steps = given.get("max_steps", DEFAULT_MAX_STEPS)
    timeout, tokens = given.get("timeout"), given.get("max_total_tokens")
    for name, value in (("max_steps", max_steps), ("timeout", timeout), ("max_total_tokens", tokens)):
        if value is not None and (not isinstance(value, int | float) or value <= 0):
            raise ExecutorError("BadSetting", f"agent.{name} is {value!r}; it must be a number above 0")
    sampling = {name: given[name] for name in ("max_tokens", "temperature", "seed") if name in given}
    return AgentSettings(
        task=str(given.get("task", "")), system_prompt=str(given.get("system_prompt", "")), max_steps=int(max_steps), timeout=timeout,
        max_total_tokens=tokens, tool_calls=tool_calls, tools=_tools(given), sampling=sampling,
    )  # fmt: skip


def _tools(given: dict[str, Any]) -> tuple[ToolChoice, ...]:
    listed = given.get("tools") or ()
    if isinstance(listed, str | dict):
        listed = [listed]
    chosen = [_tool(one) for one in listed]
    servers = given.get("mcp_servers") or {}
    named = servers.items() if isinstance(servers, dict) else ((f"server{number}", server) for number, server in enumerate(servers, 1))
    chosen += [ToolChoice("mcp", {"name": name, **server}) for name, server in named]
    return tuple(chosen)


def _tool(one: Any) -> ToolChoice:
    if named := tool_named(one):
        return ToolChoice(*named)
    raise ExecutorError("BadSetting", f"agent.tools: {one!r} is no tool; write its name, or {{name: {{option: value}}}}")


def _of_file(name: Any, context: Context) -> dict[str, Any]:
    """`config_name`: a YAML file with the settings of an agent; those of the task go before its own."""
    if not name:
        return {}
    named = Path(context.local(str(name))).expanduser()
    file = next((path for path in (named, named.with_name(f"{named.name}.yaml")) if path.is_file()), None)
    if file is None:
        raise ExecutorError("ConfigNotFound", f"agent.config_name: there is no file {named} (nor {named.name}.yaml) on the worker")
    try:
        read = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExecutorError("BadSetting", f"agent.config_name: {file} is no YAML: {str(error).splitlines()[0]}") from error
    settings = read.get("agent", read) if isinstance(read, dict) else None
    if not isinstance(settings, dict):
        raise ExecutorError("BadSetting", f"agent.config_name: {file} holds no mapping with the settings of an agent")
    return {AGENT.aliases.get(key, key): value for key, value in settings.items()}


def _one_of(value: Any, accepted: tuple[str, ...], where: str) -> str:
    if value not in accepted:
        raise ExecutorError("BadSetting", f"{where} is {value!r}; accepted: {', '.join(accepted)}")
    return str(value)


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
