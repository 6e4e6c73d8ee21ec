"""Who a spec wants told of its task's end: the receiver of the result, and that of the notice that it ended."""

from __future__ import annotations

from mloc.core.events import Receiver
from mloc.core.language.spec import TaskSpec

RESULT, NOTICE = "result", "notice"


def receivers_of(spec: TaskSpec, *, is_pipeline: bool = False) -> tuple[Receiver, ...]:
    """Of a spec whose secrets are references. The stages of a pipeline send results, the pipeline itself has none but theirs."""
    found = []
    to = spec.output.destination
    if to is not None and to.type == "http" and to.url and not is_pipeline:
        found.append(Receiver(RESULT, to.url, to.method, to.headers, to.timeout_sec or 0.0))
    if (notify := spec.notify) is not None:
        found.append(Receiver(NOTICE, notify.url, headers=notify.headers, on=notify.on, secret=notify.secret or ""))
    return tuple(found)
