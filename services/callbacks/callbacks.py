"""The aggregator's calls to receivers: off its loop, each once at a time, their ends told to the log.

A call whose end the log does not have is made again after a crash, under the same `Idempotency-Key`: at least once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from mloc.core.answers import InputRef
from mloc.core.callbacks import FIRST_PAUSE_MS, Callback, pause_ms
from mloc.core.cluster import Cluster
from mloc.core.decisions import calling
from mloc.core.decisions.calling import Answered, Call
from mloc.core.decisions.delivery import inputs_of
from mloc.core.events import CallbackFailed, CallbackMade, Event, ResultPublished, TaskCancelled, TaskTimedOut
from mloc.core.language.errors import LanguageError
from mloc.core.language.references import resolve
from mloc.core.needs.receivers import RESULT
from mloc.core.task import FINAL, Task
from mloc.services.callbacks.hosts import AllowedHosts, new_session
from mloc.services.callbacks.letters import Letter, failed_result, notice_letter, result_letter, signature
from mloc.services.callbacks.posting import Place, Tried, in_address, post
from mloc.services.intake.published_results import large_result, read_result
from mloc.services.intake.views import TaskView, task_view
from mloc.services.log.event_log import EventLog, LogError
from mloc.services.worker.scrubbing import scrub_text, secrets_worth_hiding

AT_ONCE = 256  # calls under way; `decide` asks for the others again
CLOSING = frozenset({ResultPublished, TaskCancelled, TaskTimedOut, CallbackMade, CallbackFailed})  # a task's secrets may go after these
FORGET_TRIES, FORGET_PAUSE_SEC = 20, 0.5


class Policy(Struct, frozen=True):
    """What the settings say of calls. `variables` are the values that `${NAME}` may take in an address or a header."""

    allowed_hosts: tuple[str, ...] = ()
    timeout_sec: float = 30.0
    tries: int = 15
    backlog: int = 100_000
    first_pause_ms: int = FIRST_PAUSE_MS
    base_url: str = ""  # of the API, for links
    variables: Mapping[str, str] = {}


class _Order(Struct, frozen=True):
    """All that a call needs of the state."""

    call: Call
    task: Task
    callback: Callback
    view: TaskView
    inputs: Mapping[str, InputRef]


class Callbacks:
    """`log` must not be the one that the service's loop folds. `on_done` wakes that loop."""

    def __init__(self, log: EventLog, results_dir: Path, policy: Policy, on_done: Callable[[], None]) -> None:
        self._log = log
        self._results_dir = results_dir
        self._policy = policy
        self._on_done = on_done
        self._hosts = AllowedHosts(policy.allowed_hosts)
        self._session = new_session(self._hosts)
        self._answered: dict[Call, Answered] = {}
        self._running: dict[Call, asyncio.Task[None]] = {}
        self._forgetting: set[asyncio.Task[None]] = set()
        self._say = structlog.get_logger().bind(service="aggregator")

    def decide(self, cluster: Cluster, now_ms: int) -> list[Event]:
        """What the log is told now; starts the calls that are due."""
        if not cluster.calls:
            self._answered.clear()
            return []
        events, calls = calling.decide(cluster, now_ms, self._answered, self._policy.backlog)
        self._ask(cluster, calls)
        return events

    def folded(self, cluster: Cluster, event: Event) -> None:
        """An event that may have closed a task: its secrets go once nobody is to be told any more."""
        if isinstance(event, CallbackMade | CallbackFailed):
            for call in [one for one in self._answered if (one.task, one.what) == (event.task, event.what)]:
                del self._answered[call]
        task = cluster.tasks.get(event.task)  # type: ignore[attr-defined]
        if task is not None and task.has_secrets and task.phase in FINAL and all(one.state != "due" for one in task.callbacks):
            forgetting = asyncio.ensure_future(self._forget_secrets(task.id))
            self._forgetting.add(forgetting)
            forgetting.add_done_callback(self._forgetting.discard)

    async def close(self) -> None:
        """Calls under way are made again after the next start."""
        running = [*self._running.values(), *self._forgetting]
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._session.close()

    def _ask(self, cluster: Cluster, calls: Iterable[Call]) -> None:
        for call in calls:
            if len(self._running) >= AT_ONCE:
                return
            if call not in self._running:
                task = cluster.tasks[call.task]
                callback = next(one for one in task.callbacks if one.receiver.what == call.what)
                order = _Order(call, task, callback, task_view(cluster, task), inputs_of(cluster, task))
                self._running[call] = asyncio.create_task(self._run(order))

    async def _run(self, order: _Order) -> None:
        call = order.call
        try:
            tried = await self._try(order)
            again_ms = 0
            if tried.error and not tried.is_final and call.number < self._policy.tries:
                again_ms = pause_ms(call.number, random.random(), tried.wish_ms, self._policy.first_pause_ms)
            if tried.error:
                self._say.warning("a callback failed", task=call.task, what=call.what, reason=tried.error, again_in_sec=again_ms / 1000)
            self._answered[call] = Answered(tried.status, tried.error, again_ms)
        finally:
            del self._running[call]
        self._on_done()

    async def _try(self, order: _Order) -> Tried:
        hidden: tuple[str, ...] = ()
        try:
            secrets = await self._log.secrets(order.task.id) if order.task.has_secrets else {}
            hidden = secrets_worth_hiding([*secrets.values(), *self._policy.variables.values()])
            place, secret = await self._place(order, secrets)
            hidden += in_address(place.url)
            letter = await self._letter(order)
            ours = {"Idempotency-Key": order.call.key}
            if secret:
                ours |= signature(secret, order.call.key, int(time.time()), letter.start)
            place = msgspec.structs.replace(place, headers={**ours, **place.headers})
            tried = await post(self._session, self._hosts, place, letter, self._policy.timeout_sec)
        except LanguageError as error:
            tried = Tried(error=str(error))
        except LogError as error:
            tried = Tried(error=f"the event log cannot be read: {error}")
        except OSError as error:
            tried = Tried(error=f"what is to be sent cannot be read: {error.strerror or error}")
        return msgspec.structs.replace(tried, error=scrub_text(tried.error, hidden)[:1000])

    async def _place(self, order: _Order, secrets: Mapping[str, str]) -> tuple[Place, str]:
        """Where to, and the secret that signs. Raises LanguageError for what cannot be resolved, LogError, OSError."""
        to = order.callback.receiver
        encoded = msgspec.json.encode([to.url, to.headers, to.secret])
        if b"${" not in encoded:
            return Place(to.url, to.method, to.headers, to.timeout_sec), to.secret
        names = [name for name in order.inputs if f"${{{name}.".encode() in encoded]
        inputs = {name: await self._input(order.inputs[name]) for name in names}
        url, secret = (str(resolve(text, inputs, self._policy.variables, secrets)) for text in (to.url, to.secret))
        headers = {name: str(resolve(text, inputs, self._policy.variables, secrets)) for name, text in to.headers.items()}
        return Place(url, to.method, headers, to.timeout_sec), secret

    async def _input(self, reference: InputRef) -> dict[str, object]:
        """The result of another task, as references see it."""
        source = Task(id=reference.task, phase="published", result_id=reference.result_id, result_inline=reference.inline)
        result = await read_result(self._log, self._results_dir, source)
        if result is None:
            raise FileNotFoundError(0, f"the result of {reference.task} is gone")
        return {"task_id": reference.task, "folder": str(self._results_dir / reference.task), "result": msgspec.json.decode(result)}

    async def _letter(self, order: _Order) -> Letter:
        """Raises LogError, OSError."""
        task = order.task
        if order.call.what != RESULT:
            base = self._policy.base_url.rstrip("/")
            return notice_letter(order.view, f"{base}/api/v1/results/{task.id}" if base and task.phase == "published" else "")
        if task.phase != "published":
            return result_letter(order.view, failed_result(task))
        if (large := large_result(self._results_dir, task)) is not None:
            return result_letter(order.view, large)
        result = await read_result(self._log, self._results_dir, task)
        if result is None:
            raise FileNotFoundError(0, f"the result of {task.id} is not in {self._results_dir}")
        return result_letter(order.view, result)

    async def _forget_secrets(self, task: str) -> None:
        for _ in range(FORGET_TRIES):
            try:
                await self._log.forget_secret(task)
                return
            except LogError:
                await asyncio.sleep(FORGET_PAUSE_SEC)
