"""Snapshots: whole or passed over, the newest three kept, written off the loop, and never believed blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mloc.core.cluster import Cluster
from mloc.core.events import TaskSubmitted
from mloc.services.log import snapshots
from mloc.services.log.cluster_snapshots import ClusterSnapshots
from mloc.services.log.snapshots import SnapshotError
from tests.core.history import ECHO, History


def write(folder: Path, id: str, body: bytes = b"state", log_id: str = "log", fold_version: int = 1) -> Path:
    return snapshots.write(
        folder, "scheduler", body, id=id, log_id=log_id, entry_sha256="e", state_digest="d", fold_version=fold_version
    )  # fmt: skip


def newest(folder: Path, **asked: object) -> str | None:
    found = snapshots.newest_good(folder, "scheduler", **asked)  # type: ignore[arg-type]
    return found.header.id if found else None


def test_what_was_written_is_read(tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    path = write(tmp_path, "7-3", body)
    found = snapshots.read(path)
    assert found.body == body
    assert (found.header.service, found.header.id, found.header.log_id, found.header.entry_sha256) == ("scheduler", "7-3", "log", "e")
    assert path.stat().st_size < len(body) / 10


def test_the_newest_three_are_kept_by_the_order_of_ids(tmp_path: Path) -> None:
    for id in ("9-0", "10-0", "10-2", "10-10"):
        write(tmp_path, id)
    assert [path.name for path in snapshots.newest_first(tmp_path / "scheduler")] == ["10-10.snapshot", "10-2.snapshot", "10-0.snapshot"]
    assert newest(tmp_path) == "10-10"
    assert newest(tmp_path, not_after="10-9") == "10-2"


def test_no_snapshot_is_found_where_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path) is None


@pytest.mark.parametrize("at", [0, 3, 40, -1, -20])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, at: int, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "1-0", b"older")
    path = write(tmp_path, "2-0", b"newer" * 20)
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 0x55
    path.write_bytes(damaged)
    assert newest(tmp_path) == "1-0"
    assert "2-0" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_a_torn_one_is_passed_over(tmp_path: Path, kept: int) -> None:
    write(tmp_path, "1-0")
    path = write(tmp_path, "2-0", bytes(range(256)))
    path.write_bytes(path.read_bytes()[:kept])
    assert newest(tmp_path) == "1-0"


def test_a_renamed_one_is_not_taken_for_another_position(tmp_path: Path) -> None:
    path = write(tmp_path, "1-0")
    path.rename(path.with_name("5-0.snapshot"))
    assert newest(tmp_path) is None


def test_other_logs_and_fold_versions_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "1-0")
    write(tmp_path, "2-0", log_id="another")
    write(tmp_path, "3-0", fold_version=2)
    assert newest(tmp_path, log_id="log", fold_version=1) == "1-0"


def test_what_a_crash_left_behind_is_no_snapshot(tmp_path: Path) -> None:
    path = write(tmp_path, "1-0")
    left = path.with_name("2-0.99.tmp")
    left.write_bytes(b"half")
    assert newest(tmp_path) == "1-0"
    os.utime(left, (0, 0))
    write(tmp_path, "3-0")
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "scheduler").write_text("a file where the folder should be")
    with pytest.raises(SnapshotError, match="cannot be written"):
        write(tmp_path, "1-0")


# --- a service's own ---


def history(tasks: int) -> Cluster:
    past = History()
    past.add(*[TaskSubmitted(task=f"t{i}", task_type="echo", need=ECHO) for i in range(tasks)])
    return past.cluster


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    cluster = history(50)
    ClusterSnapshots(tmp_path, "scheduler").offer(cluster, "sha", now=0.0, final=True)
    loaded = ClusterSnapshots(tmp_path, "scheduler").load()
    assert loaded is not None
    assert (loaded[0].digest(), loaded[0].position, loaded[1]) == (cluster.digest(), cluster.position, "sha")
    assert ClusterSnapshots(tmp_path, "aggregator").load() is None


def test_a_snapshot_is_written_when_it_is_time(tmp_path: Path) -> None:
    keeper = ClusterSnapshots(tmp_path, "scheduler", every_sec=20, every_entries=100)
    cluster = history(3)
    keeper.offer(cluster, "sha", now=100.0)
    keeper.offer(cluster, "sha", now=100.9, folded=99)
    assert newest(tmp_path) is None
    keeper.offer(cluster, "sha", now=100.9, folded=100)
    keeper.offer(cluster, "sha", now=500.0, folded=100, final=True)  # waits for the one before; nothing new to write
    assert [path.stem for path in snapshots.newest_first(tmp_path / "scheduler")] == [cluster.position]


def test_the_first_snapshot_of_a_new_log_comes_after_a_second_and_the_next_when_it_is_time(tmp_path: Path) -> None:
    keeper = ClusterSnapshots(tmp_path, "scheduler", every_sec=20)
    first, second = history(3), history(4)
    keeper.offer(first, "sha", now=100.0)
    keeper.offer(first, "sha", now=101.0)
    keeper.offer(second, "sha", now=120.0)
    keeper.offer(second, "sha", now=121.0)
    keeper.offer(second, "sha", now=121.0, final=True)
    assert [path.stem for path in snapshots.newest_first(tmp_path / "scheduler")] == [second.position, first.position]


def test_a_state_that_is_not_what_its_header_says_is_not_believed(tmp_path: Path) -> None:
    cluster = history(3)
    snapshots.write(
        tmp_path, "scheduler", cluster.to_bytes(), id=cluster.position, log_id="log", entry_sha256="e", state_digest="another"
    )  # fmt: skip
    assert ClusterSnapshots(tmp_path, "scheduler").load() is None


def test_a_full_disk_costs_a_snapshot_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "scheduler").write_text("no folder")
    snapshots_kept = ClusterSnapshots(tmp_path, "scheduler")
    snapshots_kept.offer(history(3), "sha", now=0.0, final=True)
    assert snapshots_kept.load() is None
