"""A line on stderr that says how far a long fold is; nothing for a short one, nothing where nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from mloc.core import log_ids

PATIENCE_SEC = 2.0  # what ends sooner needs no progress
EVERY_SEC = 0.2


def progress(first_id: str, last_id: str, out: TextIO = sys.stderr) -> Callable[[int, str], None]:
    """A callback for `rebuild`: shows events, events/s and the share of the log's time that is folded."""
    began = time.monotonic()
    shown = began + PATIENCE_SEC
    start, span = log_ids.time_ms(first_id), max(1, log_ids.time_ms(last_id) - log_ids.time_ms(first_id))
    is_seen = out.isatty()

    def show(events: int, id: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if not is_seen or (now < shown and not (id == last_id and shown > began + PATIENCE_SEC)):
            return
        shown = now + EVERY_SEC
        share = min(1.0, (log_ids.time_ms(id) - start) / span)
        end = "\n" if id == last_id else ""
        out.write(f"\r\x1b[Kfolding  {share:4.0%}  {events:,} events  {events / (now - began):,.0f} events/s{end}")
        out.flush()

    return show
