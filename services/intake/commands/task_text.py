"""The text that is sent to an API: the file as it is, or, where values were set or relative paths are meant, the documents with both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mloc.core.language.overrides import overridden, read_overrides
from mloc.core.language.yaml_source import decode_text, load_documents
from mloc.services.intake.commands.source import Prepared

_PATH_KEYS = frozenset(
    {"path", "jsonl_path", "jsonl", "identifier", "documents", "tokenizer_text", "dataset_name",
     "url", "image", "image_url", "audio", "audio_url", "video", "video_url"}
)  # fmt: skip


def as_submitted(prepared: Prepared, uploaded: Mapping[str, str] = {}) -> tuple[bytes, str, list[str]]:
    """Body, content type and warnings. A relative path becomes that of what was `uploaded` for it, else the absolute one on this machine,
    which a shared disk has at the same place."""
    if not prepared.overrides and not prepared.local_files:
        return prepared.file.text, "text/yaml", []
    documents, _ = load_documents(decode_text(prepared.file.text, prepared.file.source))
    for path, value in read_overrides(prepared.overrides):
        documents = [overridden(document, path, value) if isinstance(document, dict) else document for document in documents]
    sent = [_anchored(document, {**prepared.local_files, **uploaded}) for document in documents if document is not None]
    warnings = [
        f"{prepared.file.source}: {written} is sent as {file}, not as a copy: the workers must see it there"
        for written, file in prepared.local_files.items()
        if written not in uploaded
    ]  # fmt: skip
    return msgspec.json.encode(sent), "application/json", warnings


def _anchored(value: Any, files: Mapping[str, str], key: str = "") -> Any:
    match value:
        case dict():
            return {name: _anchored(inner, files, str(name)) for name, inner in value.items()}
        case list():
            return [_anchored(inner, files) for inner in value]
        case str() if key in _PATH_KEYS:
            return files.get(value, value)
        case _:
            return value
