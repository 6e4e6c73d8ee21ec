"""Snapshots of a service's cluster state: loaded at its start, written every 20 s or 50,000 entries, off its loop."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import structlog

from mloc.core import log_ids
from mloc.core.cluster import FOLD_VERSION, Cluster, from_bytes, joined
from mloc.services.garbage_collection import loading
from mloc.services.log import snapshots

EVERY_SEC = 20.0
FIRST_SEC = 1.0  # the first one of all comes soon, so that a new log can be verified at once
EVERY_ENTRIES = 50_000
_log = structlog.get_logger("snapshots")


class ClusterSnapshots:
    """One service's snapshots in a folder; what service_loop calls a SnapshotKeeper."""

    def __init__(self, folder: Path, service: str, *, every_sec: float = EVERY_SEC, every_entries: int = EVERY_ENTRIES) -> None:
        self._folder = folder
        self._service = service
        self._every_sec = every_sec
        self._every_entries = every_entries
        self._written_at: float | None = None
        self._written_folded = 0
        self._position = log_ids.START  # of the newest snapshot
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._writing: Future[None] | None = None

    def load(self) -> tuple[Cluster, str] | None:
        """The newest state that is what was written, and the sha256 of the payload of its last entry; None where there is none."""
        with loading():  # a state of many values decodes six times faster
            for snapshot in snapshots.good_ones(self._folder, self._service, fold_version=FOLD_VERSION):
                header = snapshot.header
                try:
                    cluster = from_bytes(snapshot.body)
                except (msgspec.MsgspecError, ValueError) as error:
                    _log.warning("a snapshot is passed over", service=self._service, id=header.id, reason=str(error))
                    continue
                if cluster.position == header.id and cluster.digest() == header.state_digest:
                    self._position = header.id
                    return cluster, header.entry_sha256
                _log.warning("a snapshot is passed over: it is not the state that its header says", service=self._service, id=header.id)
            return None

    def offer(self, cluster: Cluster, payload_sha256: str, *, now: float, folded: int = 0, final: bool = False) -> None:
        """Write one if it is time (`now` in seconds, `folded` entries so far) or the `final` one, which is on disk on return."""
        if self._written_at is None:
            self._written_at, self._written_folded = now, 0
        every_sec = self._every_sec if self._position != log_ids.START else min(FIRST_SEC, self._every_sec)
        due = now - self._written_at >= every_sec or folded - self._written_folded >= self._every_entries
        if not (due or final) or (self._is_writing() and not final):
            return
        if cluster.position not in (self._position, log_ids.START):
            self._written_at, self._written_folded, self._position = now, folded, cluster.position
            state, specs = cluster.encoded()
            self._writing = self._writer.submit(self._write, state, specs, cluster.position, cluster.log_id, payload_sha256)
        if final:
            self._writer.shutdown(wait=True)

    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def _write(self, state: bytes, specs: bytes, id: str, log_id: str, entry_sha256: str) -> None:
        try:
            snapshots.write(
                self._folder, self._service, joined(state, specs), id=id, log_id=log_id, entry_sha256=entry_sha256,
                state_digest=hashlib.sha256(state).hexdigest(), fold_version=FOLD_VERSION,
            )  # fmt: skip
        except snapshots.SnapshotError as error:  # without it the next start folds more; nothing is lost
            _log.warning("no snapshot was written", service=self._service, reason=str(error))
