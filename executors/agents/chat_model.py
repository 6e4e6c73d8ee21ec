"""Our engines as a chat model of LangChain: its messages become the model's own prompt, and what the model writes becomes calls of tools.

Models whose chat template takes tools are given them so; all others are told in words (`react_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from msgspec import Struct

from mloc.executors.agents import react_text
from mloc.executors.agents.native_calls import Call, Reply, read_reply
from mloc.executors.contract import ExecutorError

ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
UNREADABLE = "unreadable_call"  # the name under which a call that cannot be read comes back to the model


class Answered(Struct, frozen=True):
    """What the engine gave for a prompt."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


Ask = Callable[[str, tuple[str, ...]], Answered]  # (prompt, texts that end the answer)


class EngineChatModel(BaseChatModel):
    """`native`: the model's template takes tools. `ask`: generates; raises what ends the agent."""

    tokenizer: Any
    ask: Any  # Ask
    native: bool

    @property
    def _llm_type(self) -> str:
        return "mloc"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, tools: Sequence[dict[str, Any]] = (), **_: Any
    ) -> ChatResult:
        if self.native or not tools:
            prompt = self._prompt(native_turns(messages), tools)
            answered = self.ask(prompt, tuple(stop or ()))
            message = _message(self._read(answered.text, prompt, tools), answered)
        else:
            answered = self.ask(self._prompt(text_turns(messages, tools), ()), (*(stop or ()), *react_text.STOP))
            said = react_text.read_answer(answered.text, _first_parameters(tools))
            calls = (Call(said.tool, said.arguments),) if said.tool else ()
            message = _message(Reply(said.answer, said.thought, calls), answered)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _prompt(self, turns: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            return "".join(f"{turn['content']}\n\n" for turn in turns)
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tools=list(tools) or None, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # templates raise what their authors chose
            raise ExecutorError("ChatTemplate", f"the model's chat template does not take these turns: {error}") from error
        return text

    def _read(self, text: str, prompt: str, tools: Sequence[dict[str, Any]]) -> Reply:
        names = [tool["function"]["name"] for tool in tools]
        if tools and getattr(self.tokenizer, "response_template", None):
            return _of_library(self.tokenizer.parse_response(text, prefix=prompt), text)
        return read_reply(text, names)


def takes_tools(tokenizer: Any) -> bool:
    """Whether the model's chat template has a place for tools."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return "tool_use" in template
    if not template:
        return False
    from jinja2 import Environment, meta
    from jinja2.exceptions import TemplateSyntaxError

    try:
        return "tools" in meta.find_undeclared_variables(Environment().parse(template))
    except TemplateSyntaxError:  # tags that only transformers knows, such as {% generation %}
        return "tools" in template


def native_turns(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Turns as chat templates take them, calls and observations among them."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn: dict[str, Any] = {"role": ROLES.get(message.type, message.type), "content": str(message.text)}
        if isinstance(message, AIMessage) and message.tool_calls:
            turn["tool_calls"] = [
                {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}} for call in message.tool_calls
            ]
        if isinstance(message, ToolMessage):
            turn |= {"name": message.name or "", "tool_call_id": message.tool_call_id}
        turns.append(turn)
    return turns


def text_turns(messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same in words: tools in the system's turn, observations as the user's."""
    system = "\n\n".join([str(message.text) for message in messages if isinstance(message, SystemMessage)] + [react_text.instructions(tools)])
    turns = [{"role": "system", "content": system}]
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        if isinstance(message, AIMessage) and message.tool_calls:
            thought = message.additional_kwargs.get("thought", "") or str(message.text)
            said = [react_text.call_text(thought, call["name"], call["args"]) for call in message.tool_calls]
            turns.append({"role": "assistant", "content": "\n".join(said)})
        elif isinstance(message, ToolMessage):
            turns.append({"role": "user", "content": react_text.observation_text(str(message.text))})
        else:
            turns.append({"role": ROLES.get(message.type, message.type), "content": str(message.text)})
    return turns


def _message(reply: Reply, answered: Answered) -> AIMessage:
    calls = [
        {"name": UNREADABLE if call.problem else call.tool, "args": {"problem": call.problem, **call.arguments} if call.problem else call.arguments,
         "id": f"call_{answered.prompt_tokens}_{number}", "type": "tool_call"}
        for number, call in enumerate(reply.calls)
    ]  # fmt: skip
    return AIMessage(
        content=reply.text, tool_calls=calls, additional_kwargs={"thought": reply.thought} if reply.thought else {},
        response_metadata={"finish_reason": answered.finish_reason},
        usage_metadata={
            "input_tokens": answered.prompt_tokens, "output_tokens": answered.completion_tokens,
            "total_tokens": answered.prompt_tokens + answered.completion_tokens,
        },
    )  # fmt: skip


def _of_library(read: Any, text: str) -> Reply:
    if not isinstance(read, dict):
        return Reply(text)
    calls = [one.get("function", one) for one in read.get("tool_calls") or ()]
    made = tuple(Call(str(one.get("name", "")), one.get("arguments") or {}) for one in calls)
    return Reply(read.get("content") or "", read.get("thinking") or read.get("reasoning_content") or "", made)


def _first_parameters(tools: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Tool → its first argument."""
    named = ((tool["function"]["name"], tool["function"].get("parameters", {}).get("properties", {})) for tool in tools)
    return {name: next(iter(properties), "input") for name, properties in named}
