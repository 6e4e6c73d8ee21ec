"""What both event logs share: limits, times to live, and the checks of arguments before anything is sent or written.

A wrong argument is a mistake of the caller, never of a user: ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mloc.core.answers import Answer, is_delivered, is_recall, revokes
from mloc.core.events import AttemptReport, AttemptStarted, Event, TaskSubmitted
from mloc.services.log.event_log import MAX_BATCH, Report

LEASE_MS = 2000
GROUPS = ("scheduler", "aggregator", "metrics", "archiver", "readmodel")  # cursors of the control log
MAX_BLOCK_MS = 1000  # a blocked read must notice a dead connection and a stop
IDEMPOTENCY_KEPT_MS = 7 * 24 * 3600 * 1000
HEARTBEATS_KEPT_MS = 10 * 60 * 1000
TELEMETRY_ENTRIES = 10_000  # of one task
TELEMETRY_KEPT_SEC = 3 * 24 * 3600  # after its last line; a task's end copies it to the result
MAX_SUBMISSION = 256
SENT_TOGETHER = 256  # commands in one round trip

_ID = re.compile(r"\d+-\d+")
_NAME = re.compile(r"[^\x00-\x20{}]{1,256}")


def check_name(what: str, name: str) -> None:
    """Names that become part of a key."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"the {what} {name!r} cannot be part of a key: 1 to 256 characters, no spaces, no braces")


def check_position(id: str) -> None:
    if not _ID.fullmatch(id):
        raise ValueError(f"{id!r} is no id of a log entry")


def check_block(block_ms: int) -> int:
    """The time that a read may wait, ms."""
    return max(0, min(block_ms, MAX_BLOCK_MS))


def submitted_tasks(events: Iterable[Event]) -> tuple[str, ...]:
    return tuple(event.task for event in events if isinstance(event, TaskSubmitted))


def submission_key(events: Sequence[Event]) -> tuple[str, str]:
    """Idempotency key and body digest that a submission's own events carry; ("", "") for none."""
    first = events[0] if events else None
    return (first.idempotency_key, first.body_sha256) if isinstance(first, TaskSubmitted) else ("", "")


def check_submission(events: Sequence[Event], key: str, body_sha256: str) -> None:
    if not 0 < len(events) <= MAX_SUBMISSION:
        raise ValueError(f"a submission has 1 to {MAX_SUBMISSION} events, not {len(events)}")
    if key and not body_sha256:
        raise ValueError("an idempotency key needs the digest of its body")


def check_commit(position: str, answers: Sequence[Answer]) -> None:
    check_position(position)
    if len(answers) > MAX_BATCH:
        raise ValueError(f"a commit has at most {MAX_BATCH} answers, not {len(answers)}")
    for answer in answers:
        if is_recall(answer.event):
            check_position(answer.recall)


def delivery_of(answer: Answer) -> tuple[str, str, int]:
    """What a commit does with an answer (append, deliver, recall, revoke), and for which worker and incarnation."""
    event = answer.event
    if is_recall(event):
        kind = "recall"
    elif revokes(event):
        kind = "revoke"
    elif is_delivered(event):
        kind = "deliver"
    else:
        return "append", "", 0
    worker, incarnation = answer.inbox or (event.worker, event.incarnation)  # type: ignore[attr-defined]
    return kind, worker, incarnation


def check_starts(incarnation: int, starts: Sequence[tuple[str, AttemptStarted]]) -> None:
    for entry_id, event in starts:
        check_position(entry_id)
        if event.incarnation != incarnation:
            raise ValueError(f"attempt {event.attempt} of {event.task} is started under incarnation {event.incarnation}, not {incarnation}")


def check_reports(incarnation: int, first_seq: int, reports: Sequence[Report]) -> None:
    if first_seq < 1:
        raise ValueError("reports are numbered from 1")
    for number, (event, entry_id) in enumerate(reports, first_seq):
        if entry_id:
            check_position(entry_id)
        if isinstance(event, AttemptReport) and (event.seq, event.incarnation) != (number, incarnation):
            raise ValueError(f"the report of {event.task} says ({event.seq}, {event.incarnation}), but is number {number} of {incarnation}")

