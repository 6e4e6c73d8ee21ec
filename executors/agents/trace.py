"""What an agent thinks, does and sees, as it happens: for the result, and as lines for whoever watches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, ToolMessage

from mloc.executors.agents.chat_model import UNREADABLE
from mloc.executors.contract import ExecutorError

SHOWN = 300  # characters of a line
KEPT = 20_000  # characters of an observation in the result


class OutOfSteps(Exception):
    """The model was called as often as it may be."""


class Trace(AgentMiddleware):
    """Stands around every call of the model and of a tool. `check`: called before each; raises what ends the agent."""

    def __init__(self, say: Callable[[str], None], check: Callable[[], None], max_steps: int) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self.calls = 0
        self._say, self._check, self._max_steps = say, check, max_steps
        self._open: dict[str, dict[str, Any]] = {}

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        self._check()
        if self.calls >= self._max_steps:
            raise OutOfSteps
        self.calls += 1
        response = handler(request)
        for message in response.result:
            if isinstance(message, AIMessage):
                self._note(message)
        return response

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        self._check()
        call = request.tool_call
        try:
            seen = _unreadable(call) if call["name"] == UNREADABLE else handler(request)
        except ExecutorError:
            raise
        except Exception as error:  # whatever a tool raises is something to look at for the model
            seen = _failed(call, f"{type(error).__name__}: {error}")
        if isinstance(seen, ToolMessage) and (step := self._open.pop(call["id"], None)) is not None:
            step["observation"] = str(seen.text)[:KEPT]
            self._say(f"observation: {_short(str(seen.text))}")
        return seen

    def _note(self, message: AIMessage) -> None:
        thought = message.additional_kwargs.get("thought", "")
        if thought or (message.tool_calls and message.text):
            self._say(f"thought: {_short(thought or str(message.text))}")
        for call in message.tool_calls:
            step = {"thought": thought or str(message.text), "tool": call["name"], "input": call["args"], "observation": None}
            self.steps.append(step)
            self._open[str(call["id"])] = step
            self._say(f"call {call['name']}: {_short(json.dumps(call['args'], ensure_ascii=False))}")
            thought = ""
        if not message.tool_calls:
            self.steps.append({"thought": thought, "tool": None, "input": None, "observation": None, "answer": str(message.text)})
            self._say(f"answer: {_short(str(message.text))}")


def _unreadable(call: dict[str, Any]) -> ToolMessage:
    return _failed(call, f"{call['args'].get('problem')}. Write the call again.")


def _failed(call: dict[str, Any], words: str) -> ToolMessage:
    return ToolMessage(content=f"error: {words[:2000]}", tool_call_id=call["id"], name=call["name"], status="error")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} …"
