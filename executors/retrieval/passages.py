"""Documents cut into passages, each with its place in its document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langchain_core.documents import Document
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
from msgspec import Struct

from mloc.core.language.inference_spec import Chunking
from mloc.executors.contract import ExecutorError

_MARKDOWN = (".md", ".markdown")


class Passage(Struct, frozen=True):
    """`position`: of its first character in the document's text."""

    text: str
    source: str
    position: int = 0
    metadata: dict[str, Any] = {}


def split(documents: Iterable[Document], chunking: Chunking, tokenizer: Any) -> list[Passage]:
    """Cut at headings, paragraphs, lines, words, in this order of preference. Raises ExecutorError for sizes that cannot be."""
    if chunking.overlap >= chunking.size:
        said = f"retrieval.chunking.overlap {chunking.overlap} is not smaller than size {chunking.size}: no passage would ever end"
        raise ExecutorError("BadSetting", said)

    def length(text: str) -> int:
        return len(text) if chunking.unit == "characters" else len(tokenizer(text, add_special_tokens=False)["input_ids"])

    sizes: dict[str, Any] = {"chunk_size": chunking.size, "chunk_overlap": chunking.overlap, "length_function": length, "add_start_index": True}
    plain = RecursiveCharacterTextSplitter(**sizes)
    markdown = RecursiveCharacterTextSplitter.from_language(Language.MARKDOWN, **sizes)
    made: list[Passage] = []
    for document in documents:
        is_markdown = str(document.metadata.get("source", "")).lower().endswith(_MARKDOWN)
        made += map(_passage, (markdown if is_markdown else plain).split_documents([document]))
    return made


def _passage(cut: Document) -> Passage:
    metadata = dict(cut.metadata)
    return Passage(cut.page_content, str(metadata.pop("source", "")), max(0, int(metadata.pop("start_index", 0))), metadata)
