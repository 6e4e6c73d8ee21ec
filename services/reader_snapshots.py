"""The services' snapshots as a reader uses them: to start near the tail of a long log. A reader writes none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from mloc.core import cluster as clusters
from mloc.core.cluster import Cluster
from mloc.services import snapshots
from mloc.services.settings import Settings

FOLDER = "snapshots"


class ReaderSnapshots:
    """The newest good snapshot of `service` in `folder`; the observer checks that the log holds its last entry."""

    def __init__(self, folder: Path, service: str = "scheduler") -> None:
        self._folder = folder
        self._service = service

    def load(self) -> tuple[Cluster, str] | None:
        """The state, and the sha256 of the payload of its last entry; None where there is none of this program's fold."""
        for found in snapshots.good_ones(self._folder, self._service, fold_version=clusters.FOLD_VERSION):
            try:
                return clusters.from_bytes(found.body), found.header.entry_sha256
            except (msgspec.MsgspecError, ValueError) as error:
                structlog.get_logger().debug("a snapshot is passed over", reason=str(error))
        return None

    def offer(self, cluster: Cluster, payload_sha256: str, *, now: float, final: bool = False) -> None:
        """Nothing: readers keep no snapshots."""


def reader_snapshots(settings: Settings) -> ReaderSnapshots:
    """Those of the services of this state folder."""
    return ReaderSnapshots(settings.state_dir / FOLDER)
