"""Puts submissions and requests into the log. What arrives within one turn of the event loop goes in one round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core.events import Event
from mloc.core.resubmission import sent_again
from mloc.services.clock import Clock
from mloc.services.intake.submission import Submission
from mloc.services.log.event_log import BacklogFull, EventLog, KeyConflict, LogError, LogUnavailable, Submitted
from mloc.services.log.limits import submission_key, submitted_tasks

MAX_TOGETHER = 256  # submissions in one round trip
PATIENCE_SEC = 5.0
PAUSE_SEC = 0.1

Answer = TypeVar("Answer")


class _Waiting(NamedTuple):
    events: Sequence[Event]
    answer: asyncio.Future[Submitted]


class Submitter:
    """Repeats a call whose reply was lost: the tasks' ids make that harmless, since the fold takes each id once. A repeat says that it is one:
    the log that took the first may be lost as a whole, and a worker may still run what that one had dispatched."""

    def __init__(self, log: EventLog, clock: Clock, backlog_limit: int) -> None:
        self._log = log
        self._clock = clock
        self._backlog_limit = backlog_limit
        self._waiting: list[_Waiting] = []
        self._coming = 0  # events that wait or are on their way
        self._sent: deque[tuple[str, int]] = deque()  # what the log took: last id, number of events
        self._sending: asyncio.Task[None] | None = None

    async def submit(self, submission: Submission, open_tasks: int, position: str = "") -> Submitted:
        """Secrets first, then the events, whole or not at all; `open_tasks` is the backlog as far as the caller has folded it, to `position`.

        Raises KeyConflict, BacklogFull, and LogUnavailable, after which it is not known whether the tasks were taken."""
        for task, values in submission.secrets.items():
            await self._patiently(lambda task=task, values=values: self._log.set_secret(task, values))  # type: ignore[misc]
        try:
            submitted = await self._append(submission, open_tasks + self._not_folded(position))
        except (KeyConflict, BacklogFull):
            await self._forget_secrets(submission)
            raise
        if not submitted.repeated:
            return submitted
        if submitted.tasks == submitted_tasks(submission.events):  # taken at the first try, whose reply was lost
            return replace(submitted, repeated=False)
        await self._forget_secrets(submission)
        return submitted

    async def _append(self, submission: Submission, open_tasks: int) -> Submitted:
        """With a key the log knows better: a repeat is answered also when the backlog is full."""
        if not submission.key and open_tasks + self._coming + len(submission.events) > self._backlog_limit:
            raise BacklogFull(f"{open_tasks:,} tasks are not finished yet, and BACKLOG_LIMIT is {self._backlog_limit:,}: try again later")
        return await self._enqueue(submission.events)

    def _not_folded(self, position: str) -> int:
        """Events that the log took after `position`: no caller's count has them yet."""
        while self._sent and (not position or not log_ids.before(position, self._sent[0][0])):
            self._sent.popleft()
        return sum(count for _, count in self._sent)

    async def _forget_secrets(self, submission: Submission) -> None:
        """The tasks were not taken under these ids."""
        for task in submission.secrets:
            await self._patiently(lambda task=task: self._log.forget_secret(task))  # type: ignore[misc]

    async def request(self, event: Event) -> Submitted:
        """Append what a person asks for. Raises LogUnavailable."""
        return await self._enqueue([event])

    def _enqueue(self, events: Sequence[Event]) -> asyncio.Future[Submitted]:
        answer: asyncio.Future[Submitted] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(events, answer))
        self._coming += len(events)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        return answer

    async def _send(self) -> None:
        await asyncio.sleep(0)  # whoever is ready in this turn comes along
        while self._waiting:
            came, self._waiting = self._waiting, []
            for first in range(0, len(came), MAX_TOGETHER):
                together = came[first : first + MAX_TOGETHER]
                try:
                    await self._send_together(together)
                finally:
                    self._coming -= sum(len(waiting.events) for waiting in together)

    async def _send_together(self, together: list[_Waiting]) -> None:
        left, is_repeat = together, False

        async def send() -> None:
            nonlocal left, is_repeat
            repeats, is_repeat = is_repeat, True
            submissions = [sent_again(waiting.events) if repeats else waiting.events for waiting in left]
            answers = await self._log.try_each(submissions, backlog_limit=self._backlog_limit)
            fresh = [
                (answer.last_id, len(one.events))
                for one, answer in zip(left, answers, strict=True)
                if isinstance(answer, Submitted) and not answer.repeated
            ]
            if fresh:
                self._sent.append((fresh[-1][0], sum(count for _, count in fresh)))
            answered, left = list(zip(left, answers, strict=True)), []
            for waiting, answer in answered:
                if isinstance(answer, LogUnavailable):
                    left.append(waiting)
                elif not waiting.answer.done():
                    _settle(waiting.answer, _of_a_repeat(waiting.events, answer) if repeats else answer)
            if left:
                raise next(answer for answer in answers if isinstance(answer, LogUnavailable))

        try:
            await self._patiently(send)
        except Exception as error:  # belongs to those who wait, whatever it is
            for waiting in left:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Repeat the call for a while when the log cannot be reached."""
        deadline = self._clock.monotonic() + PATIENCE_SEC
        while True:
            try:
                return await call()
            except LogUnavailable:
                if self._clock.monotonic() > deadline:
                    raise
                await self._clock.sleep(PAUSE_SEC)


def _of_a_repeat(events: Sequence[Event], answer: Submitted | LogError) -> Submitted | LogError:
    """Without a key nobody knows whether the first try arrived, and is itself what fills the backlog."""
    if isinstance(answer, BacklogFull) and not submission_key(events)[0]:
        return LogUnavailable(f"the log gave no answer at first and refuses the repeat ({answer}): look whether the tasks were taken")
    return answer


def _settle(waiting: asyncio.Future[Submitted], answer: Submitted | LogError) -> None:
    if isinstance(answer, LogError):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)
