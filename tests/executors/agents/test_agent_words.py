"""How tools are told to a model and how its calls are read: as text, and in the forms of models that know tools."""

import json
from typing import Any

import pytest

from mloc.executors.agents.native_calls import read_reply
from mloc.executors.agents.react_text import Said, call_text, instructions, read_answer

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"properties": {"a": {"type": "integer"}}}}}]


def test_the_prompt_names_each_tool_with_its_arguments() -> None:
    assert "- add(a: integer): Adds." in instructions(TOOLS)
    assert "Action: one of add" in instructions(TOOLS)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Thought: sum\nAction: add\nAction Input: {\"a\": 1}\nObservation: 2", Said("sum", "add", {"a": 1})),
        ("Action: `add`\nAction Input: 7", Said("", "add", {"a": "7"})),
        ("Thought: t\nAction: add", Said("t", "add", {"a": ""})),
        ("Action: add\nAction Input: ```python\nprint(1)\n```", Said("", "add", {"a": "print(1)"})),
        ("Action: other\nAction Input: {not json", Said("", "other", {"input": "{not json"})),
        ("Thought: done\nFinal Answer: 42\n", Said("done", answer="42")),
        ("Just 42.", Said(answer="Just 42.")),
        ("", Said()),
    ],
)  # fmt: skip
def test_what_a_model_writes_is_a_call_or_an_answer(written: str, said: Said) -> None:
    assert read_answer(written, {"add": "a"}) == said


def test_a_call_is_read_as_it_is_written() -> None:
    arguments: dict[str, Any] = {"a": 'x\n"y"', "b": [1, {"c": None}]}
    assert read_answer(call_text("so", "add", arguments), {}) == Said("so", "add", arguments)


CALL = {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    "written",
    [
        f"<tool_call>{json.dumps(CALL)}</tool_call>",
        f"<tool_call>\n{json.dumps(CALL)}",
        f"[TOOL_CALLS] [{json.dumps(CALL)}]",
        '[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{"a": 1}',
        '<function=add>{"a": 1}</function>',
        '<|python_tag|>{"name": "add", "parameters": {"a": 1}}',
        '{"name": "add", "parameters": "{\\"a\\": 1}"}',
        '<tool_call>{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}</tool_call>',
    ],
)
def test_calls_of_every_family_are_read(written: str) -> None:
    reply = read_reply(written, {"add"})
    assert [(call.tool, call.arguments, call.problem) for call in reply.calls] == [("add", {"a": 1}, "")]


def test_reasoning_text_and_several_calls_are_told_apart() -> None:
    one = json.dumps(CALL)
    reply = read_reply(f"<think>first</think>Let me see. <tool_call>{one}</tool_call><tool_call>{one}</tool_call>", {"add"})
    assert (reply.thought, reply.text, len(reply.calls)) == ("first", "Let me see.", 2)
    assert read_reply('{"name": "Lima"}', {"add"}).text == '{"name": "Lima"}'
    assert read_reply("<tool_call>{oops</tool_call>", {"add"}).calls[0].problem == "the call is no JSON object"
