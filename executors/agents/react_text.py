"""ReAct as plain text (Yao et al. 2022, arXiv:2210.03629), for models whose chat template knows no tools: how tools are told to the model, how
earlier calls look to it, and how its answer is read. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

OBSERVATION = "Observation:"
STOP = (f"\n{OBSERVATION}",)

_CALL = re.compile(r"^[ \t]*Action:[ \t]*(.*?)[ \t]*$(?:\s*^[ \t]*Action Input:[ \t]*(.*))?", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```[\w-]*\n(.*?)\n?```\s*$", re.DOTALL)


class Said(Struct, frozen=True):
    """What a model wrote: a thought, and a call (`tool`, `arguments`) or an answer."""

    thought: str = ""
    tool: str = ""
    arguments: dict[str, Any] = {}
    answer: str = ""


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What goes into the system prompt. `tools`: in the form of OpenAI's API."""
    told = "\n".join(_told(tool["function"]) for tool in tools)
    names = ", ".join(tool["function"]["name"] for tool in tools)
    return (
        f"You can use these tools:\n{told}\n\n"
        "Write in this form:\n"
        "Thought: what you think\n"
        f"Action: one of {names}\n"
        "Action Input: its arguments, as JSON\n"
        "and stop there: you are then told the observation. When you know the answer, write\n"
        "Thought: what you think\n"
        "Final Answer: the answer"
    )


def call_text(thought: str, tool: str, arguments: Mapping[str, Any]) -> str:
    """A call as the model should have written it."""
    return (f"Thought: {thought}\n" if thought else "") + f"Action: {tool}\nAction Input: {json.dumps(arguments, ensure_ascii=False)}"


def observation_text(observation: str) -> str:
    """What the model is told of a call."""
    return f"{OBSERVATION} {observation}"


def read_answer(text: str, parameters: Mapping[str, str]) -> Said:
    """`parameters`: tool → the argument that a bare text is for. Text in neither form is the answer."""
    text = text.partition(f"\n{OBSERVATION}")[0].strip()
    before, final, answer = text.partition("Final Answer:")
    call = _CALL.search(before)
    if call is not None:
        tool = call[1].strip().strip("`\"'")
        return Said(_thought(before[: call.start()]), tool, _arguments((call[2] or "").strip(), parameters.get(tool, "input")))
    if final:
        return Said(_thought(before), answer=answer.strip())
    return Said(answer=_thought(text))


def _told(function: Mapping[str, Any]) -> str:
    properties = function.get("parameters", {}).get("properties", {})
    shown = ", ".join(f"{name}: {kind.get('type', 'any')}" for name, kind in properties.items())
    return f"- {function['name']}({shown}): {function.get('description', '')}"


def _thought(text: str) -> str:
    return text.strip().removeprefix("Thought:").strip()


def _arguments(text: str, parameter: str) -> dict[str, Any]:
    fenced = _FENCE.match(text)
    inside = fenced[1] if fenced else text
    try:
        value, _ = json.JSONDecoder().raw_decode(inside.lstrip())
    except ValueError:
        return {parameter: inside}
    return value if isinstance(value, dict) else {parameter: inside if not isinstance(value, str) else value}
