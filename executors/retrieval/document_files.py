"""Documents from files: text, Markdown, HTML, PDF, or a row each of jsonl, json, csv and parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from mloc.executors.contract import ExecutorError
from mloc.executors.html_text import html_text
from mloc.executors.rows.row_files import READERS, read_rows

WHOLE = (".txt", ".md", ".markdown", ".rst", ".html", ".htm", ".pdf")  # a file is a document
ROWS = tuple(suffix for suffix in READERS if suffix != ".txt")
TEXT_NAMES = ("text", "output", "content", "page_content", "document", "body", "prompt")
SOURCE_NAMES = ("source", "title", "url", "id")
_NOT_METADATA = (*TEXT_NAMES, "metadata", "usage", "finish_reason", "index")


def read_documents(path: Path, name: str = "") -> Iterator[Document]:
    """The documents of a file, or of all files below a folder, in the order of their names. Raises ExecutorError where there are none.

    `name` is what passages say they come from; below a folder it is the path from there."""
    if path.is_file():
        if path.suffix.lower() not in WHOLE + ROWS:
            raise ExecutorError("UnknownFormat", f"retrieval.documents: {path} is none of {', '.join(WHOLE + ROWS)}")
        yield from _of_file(path, name or path.name)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_document(file, path))
    if not files:
        raise ExecutorError("NoDocuments", f"retrieval.documents: the folder {path} has no files of the kinds {', '.join(WHOLE + ROWS)}")
    for file in files:
        yield from _of_file(file, str(file.relative_to(path)))


def document_of(given: Any, where: str) -> Document | None:
    """A text, or a mapping with one. None for a row that failed in an earlier stage. Raises ExecutorError for anything else."""
    if isinstance(given, str):
        return Document(given, metadata={"source": where})
    if isinstance(given, dict):
        if given.get("error") is not None:
            return None
        text = next((given[name] for name in TEXT_NAMES if isinstance(given.get(name), str)), None)
        if text is not None:
            source = next((str(given[name]) for name in SOURCE_NAMES if given.get(name) not in (None, "")), where)
            own = given.get("metadata")
            plain = {name: value for name, value in given.items() if name not in _NOT_METADATA}
            return Document(text, metadata={**_flat(plain), **_flat(own if isinstance(own, dict) else {}), "source": source})
        there = ", ".join(sorted(map(str, given))) or "none"
        raise ExecutorError("WrongColumns", f"{where} has none of the columns {', '.join(TEXT_NAMES[:4])}; it has {there}")
    raise ExecutorError("BadData", f"{where} is neither a text nor a mapping with one, but {type(given).__name__}")


def _is_document(file: Path, root: Path) -> bool:
    """Hidden files are none; nor is what a link leads to outside of the folder."""
    is_hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in WHOLE + ROWS and not is_hidden and file.resolve().is_relative_to(root.resolve())


def _of_file(file: Path, name: str) -> Iterator[Document]:
    suffix = file.suffix.lower()
    if suffix in ROWS:
        for number, row in enumerate(read_rows(file), 1):
            if (document := document_of(row, f"{name}:{number}")) is not None:
                yield document
    elif suffix == ".pdf":
        yield from _of_pdf(file, name)
    else:
        text = _decoded(file)
        yield Document(html_text(text) if suffix in (".html", ".htm") else text, metadata={"source": name})


def _decoded(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExecutorError("BadData", f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _of_pdf(file: Path, name: str) -> Iterator[Document]:
    """A document a page."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        for number, page in enumerate(PdfReader(file).pages, 1):
            yield Document(page.extract_text() or "", metadata={"source": name, "page": number})
    except (PyPdfError, ValueError, KeyError, OSError) as error:
        raise ExecutorError("BadData", f"{file} cannot be read as PDF: {error}") from error


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """What every store keeps and filters by: texts, numbers, switches."""
    return {str(name): value for name, value in values.items() if isinstance(value, str | int | float | bool)}
