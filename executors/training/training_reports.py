"""What a Hugging Face trainer tells while it trains: curves and log lines, checkpoints once they are durable; and how it is stopped."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from mloc.executors.contract import Checkpoint, Context, ExecutorError, Progress
from mloc.executors.meters import Meter
from mloc.executors.ranks import any_rank, rank, wait_for_all
from mloc.executors.training.best_weights import carry_best, find_best
from mloc.executors.training.held_state import save_held, take_back
from mloc.executors.training.saved_checkpoints import seal

MAX_HISTORY = 500
SHOWN_FIRST = ("loss", "reward", "eval_loss", "learning_rate", "tokens_per_sec")


def reporting_callback(context: Context, meter: Meter) -> Any:
    """A TrainerCallback that reports to the context, and ends the training at the next step once the context says so."""
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):  # the class of a library that is imported late
        stopped = False
        trainer: Any = None  # the one that calls back
        resumed: Path | None = None  # the checkpoint that it goes on from

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.resumed is not None:
                take_back(self.trainer, self.resumed)
                if (lost := find_best(self.resumed, state)) is not None:
                    context.report(Progress((lost,)))
            self._speed = TokenSpeed(tokens_so_far(state))
            context.report(Progress((f"training from step {state.global_step} to {state.max_steps}",), state.global_step, state.max_steps))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            refuse_divergence(logs or {}, state.global_step)
            metrics = numbers_of(logs or {})
            metrics |= self._speed.after(metrics.get("num_tokens")) | meter.metrics()
            context.report(Progress((log_line(state, metrics),), state.global_step, state.max_steps, metrics))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            if state.global_step >= state.max_steps and args.logging_strategy != "no":
                control.should_log = True  # a curve has its end, also of a training shorter than `logging_steps`
            if any_rank(context.stopping()):
                self.stopped = True
                control.should_training_stop = control.should_save = True
            return control

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_held(self.trainer, folder)
            wait_for_all()  # each rank writes a part
            if rank() == 0 and folder.is_dir():
                carry_best(folder, state)
                context.report(Checkpoint(state.global_step, folder, seal(folder)))

    return Reporting()


def numbers_of(logs: dict[str, Any]) -> dict[str, float]:
    """What is a finite number among what a trainer logs."""
    return {name: float(value) for name, value in logs.items() if isinstance(value, int | float) and math.isfinite(value)}


def refuse_divergence(logs: dict[str, Any], step: int) -> None:
    """Raises ExecutorError where the loss is no number any more: from here on nothing is learned."""
    for name in ("loss", "eval_loss"):
        value = logs.get(name)
        if isinstance(value, int | float) and not math.isfinite(value):
            remedy = "lower the learning_rate, look for empty answers in the data, or use bf16 in place of fp16"
            raise ExecutorError("Diverged", f"the {name} is {value} at step {step}: {remedy}")


def tokens_so_far(state: Any) -> float:
    """What the trainer counted until it last told of it."""
    return next((float(entry["num_tokens"]) for entry in reversed(state.log_history) if "num_tokens" in entry), 0.0)


class TokenSpeed:
    """Tokens a second between one log entry and the next."""

    def __init__(self, seen: float = 0.0) -> None:
        self._seen, self._at = seen, time.monotonic()

    def after(self, num_tokens: float | None) -> dict[str, float]:
        """The speed as a metric; nothing where the trainer counts no tokens."""
        if num_tokens is None:
            return {}
        now = time.monotonic()
        speed = (num_tokens - self._seen) / max(now - self._at, 1e-6)
        self._seen, self._at = num_tokens, now
        return {"tokens_per_sec": round(speed, 1)}


def log_line(state: Any, metrics: dict[str, float]) -> str:
    """One line for a person: `step 20/300  loss 2.28  learning_rate 0.001  tokens_per_sec 9600`."""
    names = [name for name in SHOWN_FIRST if name in metrics] or sorted(metrics)[:6]
    return f"step {state.global_step}/{state.max_steps}  " + "  ".join(f"{name} {metrics[name]:.4g}" for name in names)


def history(state: Any) -> list[dict[str, float]]:
    """The trainer's curves for the result: numbers of six digits, thinned to MAX_HISTORY points, the last one kept."""
    points = [{name: float(f"{value:.6g}") for name, value in numbers_of(entry).items()} for entry in state.log_history]
    stride = -(-len(points) // MAX_HISTORY) or 1
    return points[::-stride][::-1]
