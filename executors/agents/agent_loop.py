"""One question put to an agent: LangChain's loop of model and tools, within limits on steps, time and tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphRecursionError
from msgspec import Struct

from mloc.executors.agents.agent_settings import AgentSettings
from mloc.executors.agents.trace import OutOfSteps, Trace
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.prompts import CUT_IT, TOO_LONG

SHORTEN_IT = (
    "it is all that was said so far: take fewer steps (agent.max_steps), shorter observations (the option output of a tool), shorter answers "
    "(agent.max_tokens), or a longer context (model.vllm.max_model_len, or another model)"
)

class AskedToStop(Exception):
    """The attempt was asked to stop; the question is left for the next one."""


class OutOfTime(Exception):
    """The question took as long as it may."""


class OutOfTokens(Exception):
    """The question took as many tokens as it may."""


class Outcome(Struct, frozen=True):
    """`limit`: which one ended it without an answer, with words."""

    answer: str
    steps: list[dict[str, Any]]
    finish_reason: str = "stop"
    limit: tuple[str, str] | None = None


class Budget:
    """What is left for one question."""

    def __init__(self, settings: AgentSettings, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._settings = settings
        self._deadline = time.monotonic() + settings.timeout if settings.timeout else None
        self.prompt_tokens = self.completion_tokens = 0

    def left_sec(self) -> float:
        """Infinite where no time is set."""
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def over(self) -> bool:
        """Whether to end at once."""
        return self._stopping() or self.left_sec() <= 0

    def check(self) -> None:
        """Raises what ends the agent."""
        if self._stopping():
            raise AskedToStop
        if self.left_sec() <= 0:
            raise OutOfTime
        most = self._settings.max_total_tokens
        if most is not None and self.prompt_tokens + self.completion_tokens >= most:
            raise OutOfTokens


def run_agent(
    model: BaseChatModel, tools: Sequence[BaseTool], turns: list[dict[str, Any]], settings: AgentSettings, budget: Budget, say: Callable[[str], None]
) -> Outcome:
    """Raises AskedToStop, and ExecutorError for what no other question would fare better with."""
    trace = Trace(say, budget.check, settings.max_steps)
    agent = create_agent(model, list(tools), middleware=[trace])
    try:
        state = agent.invoke({"messages": turns}, {"recursion_limit": 10 * settings.max_steps + 10})
    except (OutOfSteps, GraphRecursionError):
        return _without_answer(trace, "StepLimit", f"no answer after {trace.calls} steps (agent.max_steps)")
    except OutOfTime:
        return _without_answer(trace, "TimeLimit", f"no answer after {settings.timeout:g} s (agent.timeout)")
    except OutOfTokens:
        used = budget.prompt_tokens + budget.completion_tokens
        return _without_answer(trace, "TokenLimit", f"no answer after {used} tokens (agent.max_total_tokens)")
    except ExecutorError as error:
        if error.type != TOO_LONG:
            raise
        return _without_answer(trace, TOO_LONG, error.message.replace(CUT_IT, SHORTEN_IT))
    last = state["messages"][-1]
    assert isinstance(last, AIMessage)
    return Outcome(str(last.text), trace.steps, str(last.response_metadata.get("finish_reason", "stop")))


def _without_answer(trace: Trace, type_: str, words: str) -> Outcome:
    return Outcome("", trace.steps, limit=(type_, words))
