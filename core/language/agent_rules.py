"""An agent's tools: which there are, and how a task names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings

TOOLS = ("python_repl", "files", "web_search", "http_get", "retrieval", "mcp")


def tool_named(one: Any) -> tuple[str, dict[str, Any]] | None:
    """A tool's name and options, from its name; {name: options}; {name or type: which, …options}; or where an MCP server is. None: it is no tool."""
    if isinstance(one, str):
        return one, {}
    if not isinstance(one, dict):
        return None
    if "command" in one or "url" in one:
        return "mcp", one
    for key in ("type", "name"):
        if isinstance(one.get(key), str):
            return one[key], {name: value for name, value in one.items() if name != key}
    named = next(iter(one.items())) if len(one) == 1 else None
    if named is not None and (named[1] is None or isinstance(named[1], dict)):
        return str(named[0]), named[1] or {}
    return None


def tools_of(agent: Mapping[str, Any]) -> list[Any]:
    """What `agent.tools` lists; one tool may stand for a list of it."""
    tools = agent.get("tools")
    return list(tools) if isinstance(tools, list | tuple) else [tools] if tools else []


def check_tools(agent: Mapping[str, Any], findings: Findings) -> None:
    """Warn of tools that are not known: the task would fail for them on the worker."""
    is_list = isinstance(agent.get("tools"), list | tuple)
    for at, one in enumerate(tools_of(agent)):
        place: Path = ("agent", "tools", at) if is_list else ("agent", "tools")
        named = tool_named(one)
        if named is None:
            findings.warn(place, f"{shown(one)} is no tool", hint="write its name, or {name: {option: value}}", at_key=False)
        elif named[0] not in TOOLS and "${" not in named[0]:
            hint = did_you_mean(named[0], TOOLS) or f"there are {', '.join(TOOLS)}"
            findings.warn(place, f"there is no tool {shown(named[0])}", hint=hint, at_key=False)
