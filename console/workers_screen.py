"""Screen 3: the workers, what they run and how busy they are."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Static

from mloc.console.page import Page
from mloc.console.phases import DIM, look_of_worker
from mloc.console.quantities_shown import duration, size
from mloc.console.row_table import Cells, Column, RowTable
from mloc.console.view import View
from mloc.core.cluster import Cluster
from mloc.core.worker import Worker

COLUMNS = (
    Column("State", 10), Column("Worker", 12, 2), Column("CPU", 5, right=True), Column("Memory", 11, right=True), Column("Devices", 10, 2),
    Column("Runs", 8, 1), Column("Engines", 8, 3, from_width=96), Column("Since", 5, right=True),
)  # fmt: skip
_ORDER = {"lost": 0, "alive": 1, "retired": 2}


class WorkersScreen(Page):
    kind = "workers"

    def __init__(self) -> None:
        super().__init__()
        self._view: View | None = None

    def body(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield RowTable(COLUMNS, self._cells, empty="no worker has registered yet: mloc worker")

    def on_mount(self) -> None:
        self.query_one(RowTable).focus()

    def show_body(self, view: View) -> None:
        self._view = view
        workers = sorted(view.cluster.workers.values(), key=lambda worker: (_ORDER[worker.phase], worker.id))
        self.query_one(RowTable).show([worker.id for worker in workers])
        held = sum(1 for _ in view.cluster.holdings.all())
        counts = {phase: sum(worker.phase == phase for worker in workers) for phase in _ORDER}
        words = ", ".join(f"{count} {phase}" for phase, count in counts.items() if count)
        text = f" showing {len(workers)} of {len(workers)} workers: {words or 'none'}; they hold {held:,} attempts"
        self.query_one("#summary", Static).update(text)

    def _cells(self, key: object) -> Cells:
        view = self._view
        worker = view.cluster.workers.get(str(key)) if view else None
        if view is None or worker is None:
            return [("", "")] * len(COLUMNS)
        look = look_of_worker(worker)
        beat = view.heartbeats.get(worker.id) if worker.phase == "alive" and not view.is_past else None
        memory = worker.hardware.memory
        return (
            (f"{look.glyph} {look.word}", look.style), (worker.id, ""), (f"{beat.cpu_percent:.0f}%" if beat else "-", ""),
            (f"{size(beat.memory_bytes) if beat else '-'}/{size(memory)}" if memory else "-", ""), (_devices(view, worker), ""),
            (_runs(view.cluster, worker), ""), (", ".join(reversed(worker.engines)), DIM), (duration(view.now_ms - worker.since_ms), DIM),
        )  # fmt: skip


def _devices(view: View, worker: Worker) -> str:
    """Each device: held or free, and how busy where its worker told it."""
    if not worker.hardware.devices:
        return "none"
    beat = view.heartbeats.get(worker.id) if not view.is_past else None
    shown = []
    for at, device in enumerate(worker.hardware.devices):
        held = "■" if view.cluster.holdings.on_device(worker.id, device.index) else "□"
        busy = f"{beat.device_percent[at]:.0f}%" if beat and at < len(beat.device_percent) else ""
        shown.append(f"{held}{device.index} {busy}".rstrip())
    return " ".join(shown)


def _runs(cluster: Cluster, worker: Worker) -> str:
    held = cluster.holdings.of(worker.id).values()
    running = sum(attempt.started for attempt in held)
    waits = len(held) - running
    return f"{running} of {worker.slots}" + (f" +{waits}" if waits else "")
