"""What a receiver is sent: the result with whose it is, or the notice that a task ended; and the headers that go with it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.callbacks import END_OF
from mloc.core.task import Task, failure_of
from mloc.services.intake.views import TaskView, error_view

READ_BYTES = 1 << 20
_METADATA = (
    "name", "kind", "task_type", "state", "owner", "project", "labels", "parent", "stage", "attempt", "submitted_at", "started_at", "ended_at",
)  # fmt: skip
_SAID = {"succeeded": "has succeeded", "failed": "has failed", "cancelled": "was cancelled", "timed_out": "timed out"}


class Letter(Struct, frozen=True):
    """A JSON body: `start`, and for a result that lies in a file its content and `end` after that."""

    start: bytes
    file: Path | None = None
    end: bytes = b""

    def size_bytes(self) -> int:
        """Raises OSError where the file is gone."""
        return len(self.start) + (self.file.stat().st_size if self.file is not None else 0) + len(self.end)

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.start
        if self.file is not None:
            with self.file.open("rb") as opened:
                while piece := await asyncio.to_thread(opened.read, READ_BYTES):
                    yield piece
        yield self.end


def result_letter(view: TaskView, result: bytes | Path) -> Letter:
    """`{task_id, worker_id, metadata, result}`, as POST /api/v1/results takes it."""
    shown = msgspec.to_builtins(view)
    head = {"task_id": view.task_id, "worker_id": view.worker_id, "metadata": {name: shown[name] for name in _METADATA}}
    start = msgspec.json.encode(head)[:-1] + b',"result":'
    return Letter(start, result, b"}") if isinstance(result, Path) else Letter(start + result + b"}")


def notice_letter(view: TaskView, result_url: str) -> Letter:
    """The task as the API shows it, with what happened to it in one word and in one line (which chat programs show)."""
    shown: dict[str, Any] = msgspec.to_builtins(view)
    shown.pop("callbacks", None)
    end = END_OF.get(view.state, view.state)
    why = f": {view.reason[:500]}" if view.reason and end != "succeeded" else ""
    text = f"{view.name or view.task_id} ({view.task_id}) {_SAID.get(end, end)}{why}"
    return Letter(msgspec.json.encode({"event": end, "text": text, "result_url": result_url or None, **shown}))


def failed_result(task: Task) -> bytes:
    """`responses.json` of a task that ended without a result."""
    return msgspec.json.encode({"ok": False, "error": error_view(failure_of(task))})


def signature(secret: str, id: str, at_sec: int, body: bytes) -> dict[str, str]:
    """Headers of the Standard Webhooks specification: HMAC-SHA256 over `<id>.<time>.<body>`."""
    made = hmac.new(_key(secret), f"{id}.{at_sec}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-id": id, "webhook-timestamp": str(at_sec), "webhook-signature": "v1," + base64.b64encode(made).decode()}


def _key(secret: str) -> bytes:
    """`whsec_…` is base64, as that specification writes secrets; any other text is taken as it is."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
