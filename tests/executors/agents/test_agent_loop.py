"""The loop of model and tools, with a model that says what the test tells it."""

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("langchain", reason='agents need langchain: pip install "mloc[agent]"')

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool

from mloc.executors.agents.agent_loop import AskedToStop, Budget, Outcome, run_agent
from mloc.executors.agents.agent_settings import AgentSettings
from mloc.executors.agents.chat_model import Answered, EngineChatModel, takes_tools
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.prompts import prompt_too_long

pytestmark = pytest.mark.extras


class Speaking(GenericFakeChatModel):
    """LangChain's fake model, which takes tools and leaves them alone."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self


def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


def fail() -> str:
    """Fails."""
    raise ValueError("no luck")


TOOLS = [StructuredTool.from_function(add), StructuredTool.from_function(fail)]


def calls(*made: tuple[str, dict[str, Any]], text: str = "") -> AIMessage:
    listed = [{"name": name, "args": given, "id": f"c{number}", "type": "tool_call"} for number, (name, given) in enumerate(made)]
    return AIMessage(content=text, tool_calls=listed)


def ask(*said: AIMessage, stopping: bool = False, **limits: Any) -> tuple[Outcome, list[str]]:
    settings, lines = AgentSettings(**limits), []
    model = Speaking(messages=iter(said))
    return run_agent(model, TOOLS, [{"role": "user", "content": "go"}], settings, Budget(settings, lambda: stopping), lines.append), lines


def test_thoughts_calls_and_observations_are_kept_in_order_and_told_as_they_come() -> None:
    outcome, lines = ask(calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}), text="I add."), AIMessage("3 and 7"))
    assert outcome.answer == "3 and 7"
    assert [(step["tool"], step["observation"]) for step in outcome.steps] == [("add", "3"), ("add", "7"), (None, None)]
    assert outcome.steps[0]["thought"] == "I add."
    assert lines[0] == "thought: I add."
    assert {"observation: 3", "observation: 7"} <= set(lines)
    assert lines[-1] == "answer: 3 and 7"


def test_what_a_tool_raises_or_refuses_is_an_observation() -> None:
    outcome, _ = ask(calls(("fail", {})), calls(("add", {"a": "x"})), calls(("nothing", {})), AIMessage("never mind"))
    failed, refused, unknown, _ = outcome.steps
    assert failed["observation"] == "error: ValueError: no luck"
    assert "valid integer" in refused["observation"]
    assert "nothing is not a valid tool" in unknown["observation"]


def test_a_model_that_only_calls_is_ended_after_its_steps() -> None:
    outcome, _ = ask(*(calls(("add", {"a": 1, "b": 1})) for _ in range(9)), max_steps=3)
    assert outcome.limit == ("StepLimit", "no answer after 3 steps (agent.max_steps)")
    assert len(outcome.steps) == 3


def test_a_conversation_that_the_model_cannot_take_any_more_ends_with_its_steps_and_with_what_helps_an_agent() -> None:
    said = iter(['Thought: sum\nAction: add\nAction Input: {"a": 2, "b": 2}'])

    def answer(prompt: str, stop: tuple[str, ...]) -> Answered:
        if (text := next(said, None)) is None:
            raise prompt_too_long(300, 256)
        return Answered(text, "stop", 5, 3)

    model = EngineChatModel(tokenizer=Plain(), ask=answer, native=False)
    settings = AgentSettings()
    outcome = run_agent(model, TOOLS, [{"role": "user", "content": "2+2?"}], settings, Budget(settings, lambda: False), lambda line: None)
    assert [step["observation"] for step in outcome.steps] == ["4"]
    assert outcome.limit is not None
    assert outcome.limit[0] == "PromptTooLong"
    assert outcome.limit[1].startswith("the prompt has 300 tokens and the model takes 256; ")
    assert all(word in outcome.limit[1] for word in ("agent.max_steps", "agent.max_tokens", "max_model_len", "output of a tool"))
    assert "truncate_prompt_tokens" not in outcome.limit[1]


def test_a_stop_ends_it_at_once() -> None:
    with pytest.raises(AskedToStop):
        ask(AIMessage("hello"), stopping=True)


class Plain:
    """A tokenizer without tools in its template."""

    chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"

    def apply_chat_template(self, turns: list[dict[str, Any]], **_: Any) -> str:
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def engine(*said: str, native: bool = False) -> tuple[EngineChatModel, list[str]]:
    told = iter(said)
    prompts: list[str] = []

    def answer(prompt: str, stop: tuple[str, ...]) -> Answered:
        prompts.append(prompt)
        return Answered(next(told), "stop", 5, 3)

    return EngineChatModel(tokenizer=Plain(), ask=answer, native=native), prompts


def test_a_model_without_tools_in_its_template_is_told_of_them_in_words() -> None:
    model, prompts = engine('Thought: sum\nAction: add\nAction Input: {"a": 2, "b": 2}', "Thought: so\nFinal Answer: 4")
    settings = AgentSettings()
    outcome = run_agent(model, TOOLS, [{"role": "user", "content": "2+2?"}], settings, Budget(settings, lambda: False), lambda line: None)
    assert outcome.answer == "4"
    assert [(step["thought"], step["tool"], step["observation"]) for step in outcome.steps] == [("sum", "add", "4"), ("so", None, None)]
    assert "- add(a: integer, b: integer): Adds two numbers." in prompts[0]
    assert prompts[1].endswith('assistant: Thought: sum\nAction: add\nAction Input: {"a": 2, "b": 2}\nuser: Observation: 4')


def test_a_call_that_cannot_be_read_comes_back_to_the_model() -> None:
    model, _ = engine("<tool_call>{oops</tool_call>", "fine", native=True)
    settings = AgentSettings()
    outcome = run_agent(model, TOOLS, [{"role": "user", "content": "go"}], settings, Budget(settings, lambda: False), lambda line: None)
    assert outcome.steps[0]["observation"] == "error: the call is no JSON object. Write the call again."
    assert outcome.answer == "fine"


def test_whether_a_template_takes_tools_is_read_from_it() -> None:
    assert not takes_tools(Plain())
    assert not takes_tools(object())
    plain = Plain()
    plain.chat_template = "{% if tools %}{{ tools }}{% endif %}{% generation %}x{% endgeneration %}"
    assert takes_tools(plain)


def test_a_template_that_refuses_the_turns_says_so() -> None:
    class Refusing(Plain):
        def apply_chat_template(self, turns: list[dict[str, Any]], **_: Any) -> str:
            raise ValueError("roles must alternate")

    model = EngineChatModel(tokenizer=Refusing(), ask=lambda prompt, stop: Answered("", "stop", 0, 0), native=True)
    settings = AgentSettings()
    with pytest.raises(ExecutorError, match="roles must alternate"):
        run_agent(model, TOOLS, [{"role": "user", "content": "go"}], settings, Budget(settings, lambda: False), lambda line: None)
