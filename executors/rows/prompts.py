"""What a model is asked to go on with: a row's turns through the model's chat template, or the bare prompt; its images beside the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from mloc.core.language.content_parts import is_parts, medium_of
from mloc.core.language.inference_spec import Inference
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.pictures import open_pictures
from mloc.executors.rows.rows import Row, Turn, conversation

ONLY_TEXT = "the model takes only text"
CUTS_IMAGES = "inference.truncate_prompt_tokens would cut images out of the prompt: leave it out for rows that hold some"
TOO_LONG = "PromptTooLong"
CUT_IT = "set inference.truncate_prompt_tokens"
ONLY_IMAGES = "models are given text and images, no audio and no video"


class Prompt(Struct, frozen=True):
    """`images`: as PIL has them, in the order of their marks in the text."""

    text: str
    images: tuple[Any, ...] = ()

    @property
    def pixels(self) -> int:
        return sum(image.width * image.height for image in self.images)


def prompt_too_long(tokens: int, room: int) -> ExecutorError:
    """Of a prompt that leaves no room for an answer. What helps is said in the words of CUT_IT."""
    return ExecutorError(TOO_LONG, f"the prompt has {tokens} tokens and the model takes {room}; {CUT_IT}")


def prompt_with_images(row: Row, inference: Inference, processor: Any, local: Callable[[str], str]) -> Prompt:
    """The prompt for a model that takes images, through its `processor`. `local`: what the spec names → where it lies on this disk.

    Raises ExecutorError as `prompt_text` does, and for an image that cannot be opened."""
    turns = conversation(row)
    has_image = any(part["type"] != "text" for turn in turns or () if is_parts(turn["content"]) for part in turn["content"])
    if turns is None or not _is_chat(inference, processor):
        return Prompt(prompt_text(row, inference, processor.tokenizer, "images need the model's chat template" if has_image else ONLY_TEXT))
    turns = _with_system([only_text(turn) if turn["role"] == "system" else turn for turn in turns], inference)
    images = open_pictures((part for turn in turns if is_parts(turn["content"]) for part in _checked(turn["content"])), local)
    return Prompt(_templated([_as_parts(turn) for turn in turns], processor), tuple(images))


def prompt_text(row: Row, inference: Inference, tokenizer: Any, takes: str = ONLY_TEXT) -> str:
    """Raises ExecutorError where the row has nothing to ask, or the template does not take its turns. `takes`: why it may hold only text."""
    turns = conversation(row)
    if turns is None:
        if row.text is None:
            has = ", ".join(sorted(row.columns)) or "nothing"
            raise ExecutorError("NoPrompt", f"the row has neither a prompt, nor messages, nor a text; it has {has}")
        return row.text
    turns = [only_text(turn, takes) for turn in turns]
    is_chat = _is_chat(inference, tokenizer)
    if not is_chat:
        if len(turns) > 1 or turns[0]["role"] != "user" or row.messages is not None:
            raise ExecutorError("NoChatTemplate", "the row has chat turns, and the model has no chat template or inference.chat is off")
        return "".join(f"{text}\n\n" for text in (inference.system_prompt, inference.append_system_prompt) if text) + turns[0]["content"]
    return _templated(_with_system(turns, inference), tokenizer)


def only_text(turn: Turn, takes: str = "only text is taken here") -> Turn:
    """The turn with parts of text as one text. Raises ExecutorError for any other part, and says what is taken."""
    if not is_parts(turn["content"]):
        return turn
    if other := next((part for part in turn["content"] if part["type"] != "text"), None):
        raise _not_taken(other, takes)
    return {**turn, "content": "\n".join(part["text"] for part in turn["content"])}


def _not_taken(part: dict[str, Any], takes: str) -> ExecutorError:
    medium = medium_of(part)
    return ExecutorError("OnlyText", f"the row holds {'an' if medium[:1] in ('a', 'i') else 'a'} {medium}, and {takes}")


def _checked(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts that are images. Raises ExecutorError for audio and video."""
    images = [part for part in parts if part["type"] != "text"]
    if other := next((part for part in images if medium_of(part) != "image"), None):
        raise _not_taken(other, ONLY_IMAGES)
    return images


def _as_parts(turn: Turn) -> Turn:
    """As the templates of such models have turns: each a list of parts, an image only its mark."""
    content = turn["content"]
    if is_parts(content):
        return {**turn, "content": [part if part["type"] == "text" else {"type": "image"} for part in content]}
    return {**turn, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else turn


def _templated(turns: list[Turn], templates: Any) -> str:
    try:
        text: str = templates.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates raise what their authors chose
        raise ExecutorError("ChatTemplate", f"the model's chat template does not take these turns: {error}") from error
    return text


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
