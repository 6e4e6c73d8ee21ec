"""Submissions as calls of scripts, and what the scripts answer. Neighbours without an idempotency key share a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.exceptions import RedisError

from mloc.core import codec
from mloc.core.events import Event
from mloc.services.log import limits, refusals
from mloc.services.log import redis_replies as replies
from mloc.services.log.event_log import MAX_BATCH, LogError, Submitted
from mloc.services.log.redis_link import Argument

MAX_CALL_BYTES = 1024 * 1024  # a script holds up all others for as long as it runs

_encode = msgspec.json.Encoder().encode
_decode_tasks = msgspec.json.Decoder(tuple[str, ...]).decode

SubmissionAnswer = Submitted | LogError


class Submission(NamedTuple):
    events: Sequence[Event]
    key: str
    body_sha256: str
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, events: Sequence[Event], key: str, body_sha256: str) -> Submission:
        """Raises ValueError for what no caller may send."""
        limits.check_submission(events, key, body_sha256)
        return cls(events, key, body_sha256, limits.submitted_tasks(events))


class SubmissionCall(NamedTuple):
    """One call of `script`: a submission with its key, or several without."""

    script: str
    submissions: list[Submission]
    arguments: list[Argument]
    limit: int

    def answers(self, reply: Any) -> list[SubmissionAnswer]:
        """One for each submission, refusals as values."""
        if isinstance(reply, RedisError):
            return [replies.explained(reply)] * len(self.submissions)
        if self.script == "submit":
            return [_answer(self.submissions[0], reply, self.limit)]
        return [
            refusals.backlog_full(int(reply[1]), len(one.tasks), self.limit) if last == b"FULL" else Submitted(one.tasks, last.decode())
            for one, last in zip(self.submissions, reply[2:], strict=True)
        ]


def call_of(one: Submission, first: tuple[str, bytes], limit: int) -> SubmissionCall:
    """The call for one submission. `first`: the server's run, and the entry that starts a log."""
    arguments: list[Argument] = [
        *first, one.key, one.body_sha256, limits.IDEMPOTENCY_KEPT_MS, limit, _encode(one.tasks), len(one.tasks), *_logged(one)
    ]  # fmt: skip
    return SubmissionCall("submit", [one], arguments, limit)


def calls_of(submissions: Sequence[Submission], first: tuple[str, bytes], limit: int) -> Iterator[SubmissionCall]:
    """The calls for many, in order."""
    call, events, size = SubmissionCall("submit_each", [], [*first, limit], limit), 0, 0
    for one in submissions:
        logged = _logged(one) if not one.key else []
        events += len(one.events)
        size += sum(map(len, logged))
        if call.submissions and (one.key or events > MAX_BATCH or size > MAX_CALL_BYTES):
            yield call
            call, events, size = SubmissionCall("submit_each", [], [*first, limit], limit), len(one.events), sum(map(len, logged))
        if one.key:
            yield call_of(one, first, limit)
            events = size = 0
        else:
            call.submissions.append(one)
            call.arguments.extend((len(one.tasks), len(one.events), *logged))
    if call.submissions:
        yield call


def _logged(one: Submission) -> list[str | bytes]:
    logged: list[str | bytes] = []
    for event in one.events:
        logged += (codec.type_of(event), codec.encode(event))
    return logged


def _answer(one: Submission, reply: Any, limit: int) -> SubmissionAnswer:
    match reply[0]:
        case b"CONFLICT":
            return refusals.key_conflict(one.key)
        case b"FULL":
            return refusals.backlog_full(int(reply[1]), len(one.tasks), limit)
        case b"REPEATED":
            return Submitted(_decode_tasks(reply[1]), reply[2].decode(), repeated=True)
    return Submitted(one.tasks, reply[1].decode())
