"""Progress as people see it: a bar and a line for each task on a terminal, or one line for each change where nobody draws. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from rich.text import Text

from mloc.services.intake.commands.output import COLOURS, GLYPHS, age, one_line, printable
from mloc.services.intake.commands.source import View, has_ended, milliseconds
from mloc.services.intake.task_requests import words

NARROW = 64  # columns; below, the bar goes
_BAR = 16
_NAME = 22
_TOLD = ("loss", "train_loss", "reward", "tokens_per_sec", "tokens_per_second", "eval_loss")


class Reading(Struct, frozen=True):
    """The newest metric point of a task."""

    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = {}


class Part(Struct):
    """A task with its stages, or its shards, folded into numbers."""

    view: View
    depth: int = 0
    done: int = 0  # parts
    of: int = 0
    rows: int = 0
    rows_of: int = 0
    running: int = 0
    reading: Reading = Reading()


def folded(views: Sequence[View], readings: dict[str, Reading]) -> list[Part]:
    """A part for each task that is no shard, in the given order (parents first); shards are counted in their parent."""
    parts: dict[str, Part] = {}
    for view in views:
        rows = view.get("rows") or {}
        done, of = int(rows.get("done") or 0), int(rows.get("of") or 0)
        parent = parts.get(view["parent"] or "")
        if view.get("shard") and parent is not None:
            parent.rows += done
            parent.rows_of = max(parent.rows_of, int((parent.view.get("rows") or {}).get("of") or 0))
            parent.running += view["state"] in ("running", "dispatched")
            continue
        parts[view["task_id"]] = Part(
            view, depth=parent.depth + 1 if parent else 0, done=view.get("children_done", 0), of=len(view["children"]), rows=done, rows_of=of,
            reading=readings.get(view["task_id"], Reading()),
        )  # fmt: skip
    return list(parts.values())


def fraction(part: Part) -> float | None:
    """How much of it is done; None where nothing tells."""
    if part.view["state"] in ("published", "succeeded"):
        return 1.0
    for done, of in (_rows(part), (part.reading.step, part.reading.total_steps), (part.done, part.of)):
        if of and done:
            return min(1.0, done / of)
    return 0.0 if part.of or part.rows_of or part.reading.total_steps else None


def drawing(parts: Sequence[Part], now_ms: int, width: int, height: int) -> Text:
    """Lines that fit the terminal: a head where there are several tasks, and what runs before what waits or has ended."""
    lines: list[Text] = []
    roots = [part for part in parts if part.depth == 0]
    if len(roots) > 1:
        lines.append(_cut(Text(_tally(roots), style="bold"), width))
    room = max(1, height - len(lines) - 2)
    shown = list(parts)
    if len(shown) > room:  # pipelines and what moves stay; the rest is counted
        order = sorted(shown, key=lambda part: (part.view["state"] not in ("running", "dispatched"), has_ended(part.view)))
        kept = {id(part) for part in order[:room]}
        shown = [part for part in shown if id(part) in kept]
    lines += [_cut(_line(part, now_ms, width), width) for part in shown]
    if len(shown) < len(parts):
        lines.append(_cut(Text(f"  … and {len(parts) - len(shown)} more", style="dim"), width))
    return Text("\n").join(lines)


class Changes:
    """What to print where nobody draws: a line when a task changes its state or its worker, and at each quarter of its work."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._shown: dict[str, str] = {}

    def look(self, parts: Sequence[Part]) -> None:
        for part in parts:
            view = part.view
            if view["state"] == "succeeded":  # published follows at once
                continue
            quarter = int((fraction(part) or 0.0) * 4) if view["state"] == "running" else 0
            now = f"{view['state']} {_worker(view)} {quarter}"
            if self._shown.get(view["task_id"]) != now:
                self._shown[view["task_id"]] = now
                amount = f": {_amount(part)}" if quarter and _amount(part) else ""
                self._line(f"{GLYPHS[view['state']]} {view['task_id']}: {said(view)}{amount}")


def said(view: View) -> str:
    """State, worker and reason in a few words."""
    on = f" on {_worker(view)}" if _worker(view) else ""
    why = f" ({one_line(view['reason'], 80)})" if view["reason"] else ""
    return f"{words(view['state'])}{on}{why}"


def _line(part: Part, now_ms: int, width: int) -> Text:
    view = part.view
    style = COLOURS.get(view["state"], "")
    line = Text("  " * min(part.depth, 3)).append(f"{GLYPHS[view['state']]} ", style=style)
    name = one_line(printable(view["stage"] or (view["name"] if part.depth else "") or view["task_id"]), _NAME if width < 100 else 40)
    line.append(f"{name:<{_NAME}} ")
    share = fraction(part)
    if width >= NARROW and share is not None:
        full = round(share * _BAR)
        line.append("━" * full, style=style or "cyan").append("━" * (_BAR - full), style="bright_black").append(f" {share:>4.0%} ")
    elif share is not None and not has_ended(view):
        line.append(f"{share:.0%} ")
    started = milliseconds(view["started_at"])
    spent = age((milliseconds(view["ended_at"]) or now_ms) - started) if started else ""
    words_ = [words(view["state"]) if width < NARROW else said(view), _amount(part), _metrics(part), spent]
    return line.append("  ".join(word for word in words_ if word))


def _amount(part: Part) -> str:
    told = []
    if part.of:
        told.append(f"{part.done}/{part.of} parts" + (f", {part.running} running" if part.running else ""))
    rows, rows_of = _rows(part)
    if rows or rows_of:
        told.append(f"{rows}/{rows_of} rows" if rows_of else f"{rows} rows")
    elif part.reading.step:
        told.append(f"step {part.reading.step}" + (f"/{part.reading.total_steps}" if part.reading.total_steps else ""))
    return ", ".join(told)


def _rows(part: Part) -> tuple[int, int]:
    """Rows done, and of how many (0: not known). A worker tells of them as steps, sooner than the log has them, and knows how many a file holds."""
    if "rows" not in part.reading.metrics:
        return part.rows, part.rows_of
    return max(part.rows, part.reading.step), part.rows_of or part.reading.total_steps


def _metrics(part: Part) -> str:
    if has_ended(part.view):
        return ""
    return " ".join(f"{name.replace('_per_second', '/s').replace('_per_sec', '/s')} {part.reading.metrics[name]:.4g}"
                    for name in _TOLD if name in part.reading.metrics)  # fmt: skip


def _tally(roots: Sequence[Part]) -> str:
    states = [part.view["state"] for part in roots]
    failed = sum(state in ("dead_lettered", "timed_out", "cancelled") for state in states)
    running = sum(state in ("running", "dispatched") for state in states)
    return f"{states.count('published')} of {len(roots)} done, {running} running" + (f", {failed} failed" if failed else "")


def _worker(view: View) -> str:
    return str(view["worker_id"] or "") if view["state"] in ("dispatched", "running") and not view["children"] else ""


def _cut(line: Text, width: int) -> Text:
    line.truncate(max(8, width - 1), overflow="ellipsis")
    return line
