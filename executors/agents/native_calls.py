"""Tool calls in the forms that models write them: what the chat template was made for, read back from text. Pure.

`<tool_call>{…}</tool_call>` (Hermes, Qwen), `[TOOL_CALLS][…]` (Mistral), `<function=name>{…}</function>` and bare `{"name", "parameters"}`
(Llama). Where the tokenizer brings a response template of its own, transformers reads with that instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from msgspec import Struct

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*(\[.*)", re.DOTALL)
_MISTRAL_ONE = re.compile(r"\[TOOL_CALLS\]\s*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{.*)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([\w.-]+)>\s*(\{.*?\})\s*</function>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


class Call(Struct, frozen=True):
    """`problem`: why the call cannot be read; its arguments are then what was written."""

    tool: str
    arguments: dict[str, Any]
    problem: str = ""


class Reply(Struct, frozen=True):
    """What a model wrote: text beside the calls (an answer where there are none), its reasoning, the calls."""

    text: str
    thought: str = ""
    calls: tuple[Call, ...] = ()


def read_reply(text: str, known: Collection[str]) -> Reply:
    """`known`: names of tools; bare JSON counts as a call only where it names one of them."""
    thought = "\n".join(part.strip() for part in _THINK.findall(text))
    text = _THINK.sub("", text)
    for reader in (_tagged, _mistral, _function):
        if (read := reader(text)) is not None:
            return Reply(read[0].strip(), thought, tuple(read[1]))
    if (bare := _object(text.strip().removeprefix("<|python_tag|>"))) is not None and bare.get("name") in known:
        return Reply("", thought, (_call(bare),))
    return Reply(text.strip(), thought)


def _tagged(text: str) -> tuple[str, Iterable[Call]] | None:
    found = _TAGGED.findall(text)
    return (_TAGGED.sub("", text), [_call_of_text(one) for one in found]) if found else None


def _mistral(text: str) -> tuple[str, Iterable[Call]] | None:
    before = text.partition("[TOOL_CALLS]")[0]
    if match := _MISTRAL.search(text):
        try:
            listed, _ = json.JSONDecoder().raw_decode(match[1])
        except ValueError as error:
            return before, [Call("", {"text": match[1][:1000]}, f"the calls are no JSON: {error}")]
        return before, [_call(one) for one in listed if isinstance(one, dict)]
    if match := _MISTRAL_ONE.search(text):
        return before, [_call_of_text(match[2], match[1])]
    return None


def _function(text: str) -> tuple[str, Iterable[Call]] | None:
    found = _FUNCTION.findall(text)
    return (_FUNCTION.sub("", text), [_call_of_text(inside, name) for name, inside in found]) if found else None


def _call_of_text(text: str, name: str = "") -> Call:
    value = _object(text)
    if value is None:
        return Call(name, {"text": text[:1000]}, "the call is no JSON object")
    return Call(name, value) if name else _call(value)


def _call(value: dict[str, Any]) -> Call:
    value = value["function"] if isinstance(value.get("function"), dict) else value
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _object(arguments)
    name = value.get("name")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return Call(str(name or ""), {"text": json.dumps(value)[:1000]}, "the call has no name, or arguments that are no JSON object")
    return Call(name, arguments)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text.strip())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
