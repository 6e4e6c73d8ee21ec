"""The text that a model is asked to go on with: a row's turns through the model's chat template, or the bare prompt."""

from __future__ import annotations

from typing import Any

from mloc.core.language.content_parts import is_parts
from mloc.core.language.inference_spec import Inference
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.rows import Row, Turn, conversation


def prompt_text(row: Row, inference: Inference, tokenizer: Any) -> str:
    """Raises ExecutorError where the row has nothing to ask, or the template does not take its turns."""
    turns = conversation(row)
    if turns is None:
        if row.text is None:
            has = ", ".join(sorted(row.columns)) or "nothing"
            raise ExecutorError("NoPrompt", f"the row has neither a prompt, nor messages, nor a text; it has {has}")
        return row.text
    turns = [only_text(turn) for turn in turns]
    is_chat = _is_chat(inference, tokenizer)
    if not is_chat:
        if len(turns) > 1 or turns[0]["role"] != "user" or row.messages is not None:
            raise ExecutorError("NoChatTemplate", "the row has chat turns, and the model has no chat template or inference.chat is off")
        return "".join(f"{text}\n\n" for text in (inference.system_prompt, inference.append_system_prompt) if text) + turns[0]["content"]
    try:
        text: str = tokenizer.apply_chat_template(_with_system(turns, inference), add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates raise what their authors chose
        raise ExecutorError("ChatTemplate", f"the model's chat template does not take these turns: {error}") from error
    return text


def only_text(turn: Turn) -> Turn:
    """The turn with parts of text as one text. Raises ExecutorError for any other part."""
    if not is_parts(turn["content"]):
        return turn
    if other := next((part["type"] for part in turn["content"] if part["type"] != "text"), None):
        medium = other.removeprefix("input_").removesuffix("_url")
        article = "an" if medium[0] in "ai" else "a"
        raise ExecutorError("OnlyText", f"the row holds {article} {medium}, and models are given only text in this version")
    return {**turn, "content": "\n".join(part["text"] for part in turn["content"])}


def _is_chat(inference: Inference, tokenizer: Any) -> bool:
    if inference.chat == "off":
        return False
    if not getattr(tokenizer, "chat_template", None):
        if inference.chat == "on":
            raise ExecutorError("NoChatTemplate", "inference.chat is on, and the model has no chat template")
        return False
    return True


def _with_system(turns: list[Turn], inference: Inference) -> list[Turn]:
    """`system_prompt` stands where the turns bring none of their own; `append_system_prompt` goes after either."""
    has_own = bool(turns) and turns[0]["role"] == "system"
    system = str(turns[0]["content"]) if has_own else inference.system_prompt or ""
    if inference.append_system_prompt:
        system = f"{system}\n\n{inference.append_system_prompt}" if system else inference.append_system_prompt
    if not system:
        return turns
    return [{"role": "system", "content": system}, *(turns[1:] if has_own else turns)]
