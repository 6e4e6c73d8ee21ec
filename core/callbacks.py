"""What a task's end means for those who want to be told over HTTP: which calls are due, when a failed one is made again, when it is given up.

    waiting ─▶ due ─▶ made                      a task that ends again (a dead letter that was retried) starts the round anew
                └──▶ due (later) … ─▶ given up
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.events import Receiver

END_OF: dict[str, str] = {"published": "succeeded", "dead_lettered": "failed", "cancelled": "cancelled", "timed_out": "timed_out"}
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1_000, 3_600_000
LONGEST_WISH_MS = 6 * 3_600_000  # a receiver may ask to be left alone for so long

State = Literal["waiting", "due", "made", "given_up"]


class Callback(Struct, frozen=True, omit_defaults=True, gc=False):
    """One receiver of a task and how far telling it has come."""

    receiver: Receiver
    state: State = "waiting"
    ended_ms: int = 0  # when the end came that it tells
    tries: int = 0
    due_ms: int = 0  # not to be called before
    at_ms: int = 0  # of the last try
    status: int = 0  # that the last try was answered with; 0: no answer
    error: str = ""


def waiting(receivers: tuple[Receiver, ...]) -> tuple[Callback, ...]:
    return tuple(Callback(receiver) for receiver in receivers)


def at_end(callbacks: tuple[Callback, ...], phase: str, now_ms: int) -> tuple[Callback, ...]:
    """Callbacks of a task that has just come into this phase. What was still to be told of an earlier end is not news any more."""
    end = END_OF.get(phase)
    if end is None:
        return tuple(replace(one, state="waiting") if one.state == "due" else one for one in callbacks)
    return tuple(
        Callback(one.receiver, "due", ended_ms=now_ms, due_ms=now_ms) if not one.receiver.on or end in one.receiver.on
        else replace(one, state="waiting") if one.state == "due" else one
        for one in callbacks
    )  # fmt: skip


def made(callback: Callback, status: int, now_ms: int) -> Callback:
    return replace(callback, state="made", tries=callback.tries + 1, status=status, at_ms=now_ms, error="")


def failed(callback: Callback, status: int, error: str, again_ms: int, now_ms: int) -> Callback:
    """`again_ms`: how long until the next try; 0 gives up."""
    return replace(
        callback, state="due" if again_ms else "given_up", tries=callback.tries + 1, status=status, error=error, at_ms=now_ms,
        due_ms=now_ms + again_ms if again_ms else 0,
    )  # fmt: skip


def pause_ms(tries: int, chance: float, wish_ms: int = 0, first_ms: int = FIRST_PAUSE_MS) -> int:
    """How long after the `tries`-th failure the next try comes: doubled each time, less up to a half by `chance` (0 to 1), so that many
    do not come back at once. `wish_ms` is what the receiver asked for."""
    longest = min(LONGEST_PAUSE_MS, first_ms << min(tries - 1, 30))
    return max(int(longest * (1 - chance / 2)), min(wish_ms, LONGEST_WISH_MS))
