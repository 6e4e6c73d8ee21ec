"""The documents that `retrieval.documents` names: texts in the task, files and folders, rows of a dataset, an earlier stage's items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from langchain_core.documents import Document
from msgspec.structs import replace

from mloc.core.language.data_spec import Data
from mloc.core.language.findings import Findings
from mloc.core.language.shorthands import rewrite
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.retrieval.document_files import ROWS, WHOLE, document_of, read_documents
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_files import find_file


def load_documents(spec: TaskSpec, context: Context) -> list[Document]:
    """Every document with a text; its metadata say from where it is (`source`). Raises ExecutorError where there is none."""
    given = spec.retrieval.documents if spec.retrieval is not None else None
    found = [document for document in _documents(given, spec, context) if document.page_content.strip()]
    if not found:
        raise ExecutorError("NoDocuments", "retrieval.documents holds no text: there is nothing to look anything up in")
    return found


def _documents(given: Any, spec: TaskSpec, context: Context) -> Iterator[Document]:
    match given:
        case str():
            yield from _named(given, context)
        case dict():
            yield from _of_data(given, spec, context)
        case list() | tuple():
            for at, one in enumerate(given):
                if isinstance(one, dict) and set(one) <= {"path", "url"} and one:
                    yield from _named(str(one.get("path") or one["url"]), context)
                elif (document := document_of(one, f"documents[{at}]")) is not None:
                    yield document


def _named(name: str, context: Context) -> Iterator[Document]:
    """A file or folder; a text that can be no path is the document itself."""
    local = context.local(name).removeprefix("file://")
    path = Path(local).expanduser() if len(local) < 4096 and "\n" not in local else None
    if path is not None and path.is_dir():
        yield from read_documents(path)
    elif path is not None and (path.is_file() or path.suffix.lower() in WHOLE + ROWS or local.startswith(("/", "./"))):
        yield from read_documents(find_file(local), Path(name).name)
    else:
        yield Document(name, metadata={"source": "documents"})


def _of_data(given: dict[str, Any], spec: TaskSpec, context: Context) -> Iterator[Document]:
    """Written as `data` is: each row is a document."""
    if set(given) <= {"path", "url"}:
        yield from _named(str(given.get("path") or given["url"]), context)
        return
    written = rewrite({"taskType": "embed", "data": dict(given)}, Findings()).spec["data"]
    try:
        data = msgspec.convert(written, Data)
    except msgspec.ValidationError as error:
        raise ExecutorError("BadSpec", f"retrieval.documents: {error}") from error
    for row in load_rows(replace(spec, data=data), replace(context, shard=None)):
        if row.problem:
            raise ExecutorError("BadData", f"retrieval.documents, row {row.index}: {row.problem}")
        columns = row.columns or {"text": row.asked}
        named = {**columns, "text": row.text} if row.text is not None else columns
        if (document := document_of(named, f"documents:{row.index + 1}")) is not None:
            yield document
