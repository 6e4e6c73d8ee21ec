"""Which checkpoint is gone on from: the furthest one whose files are those that were written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mloc.executors.training.saved_checkpoints import SUMS, seal, usable_checkpoint


def saved(attempts: Path, attempt: int, step: int, *, sealed: bool = True) -> Path:
    """A checkpoint as an attempt leaves it, with the best weights so far in it."""
    folder = attempts / str(attempt) / "artifacts" / "checkpoints" / f"checkpoint-{step}"
    (folder / "best" / "weights").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "best/weights/model.safetensors"):
        (folder / name).write_bytes(f"{name} at {step}".encode() * 100)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if sealed:
        seal(folder)
    return folder


def test_a_seal_is_what_sha256sum_reads_and_its_own_digest_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1, 10, sealed=False)
    told = seal(folder)
    listed = dict(reversed(line.split("  ")) for line in (folder / SUMS).read_text().splitlines())
    assert listed == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file() and path.name != SUMS
    }  # fmt: skip
    assert told == hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    assert seal(folder) == told


def garble(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [garble, cut_off, empty, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_file_that_is_not_as_it_was_written_makes_way_for_the_checkpoint_before(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    older, newest = saved(tmp_path, 1, 10), saved(tmp_path, 1, 20)
    assert usable_checkpoint(newest, tmp_path) == (newest, [])
    damage(newest / name)
    found, said = usable_checkpoint(newest, tmp_path)
    assert found == older
    assert said[0].startswith(f"the checkpoint checkpoint-20 cannot be gone on from: {name} is ")
    assert said[1] == "going on from checkpoint-10 instead"


@pytest.mark.parametrize("damage", [garble, cut_off, empty])
def test_a_damaged_seal_vouches_for_nothing(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    older, newest = saved(tmp_path, 1, 10), saved(tmp_path, 1, 20)
    damage(newest / SUMS)
    assert usable_checkpoint(newest, tmp_path)[0] == older


def test_best_weights_that_are_gone_cost_no_steps_and_those_that_are_damaged_are_not_ended_with(tmp_path: Path) -> None:
    older, newest = saved(tmp_path, 1, 10), saved(tmp_path, 1, 20)
    best = newest / "best" / "weights" / "model.safetensors"
    garble(best)
    assert usable_checkpoint(newest, tmp_path)[0] == older
    best.unlink()
    assert usable_checkpoint(newest, tmp_path) == (newest, [])


def test_of_all_attempts_the_furthest_one_serves_that_was_finished(tmp_path: Path) -> None:
    # given an attempt whose checkpoints are damaged, and one after it that therefore began anew
    damaged = [saved(tmp_path, 1, step) for step in (20, 30)]
    for folder in damaged:
        garble(folder / "optimizer.pt")
    saved(tmp_path, 2, 10)
    further = saved(tmp_path, 2, 15)
    unfinished = saved(tmp_path, 2, 25, sealed=False)
    (unfinished / "trainer_state.json").unlink()
    # when the third is told of the newest that the log knows
    found, said = usable_checkpoint(damaged[1], tmp_path)
    # then it goes on from the second's
    assert found == further
    assert [line.split()[2] for line in said[:2]] == ["checkpoint-30", "checkpoint-20"]


def test_one_that_made_room_for_the_next_leads_to_that(tmp_path: Path) -> None:
    # given a training that was ended after it removed a checkpoint, and before the log was told of the next
    gone, further = saved(tmp_path, 1, 20), saved(tmp_path, 1, 30)
    shutil.rmtree(gone)
    # then the next is found, and that is said
    assert usable_checkpoint(gone, tmp_path) == (
        further, ["the checkpoint checkpoint-20 cannot be gone on from: it is gone", "going on from checkpoint-30 instead"]
    )  # fmt: skip


def test_where_none_is_whole_training_begins_anew_and_that_is_said(tmp_path: Path) -> None:
    newest = saved(tmp_path, 1, 20)
    garble(newest / "model.safetensors")
    assert usable_checkpoint(newest, tmp_path)[1][-1] == "training from the beginning: there is no checkpoint that is whole"
    assert usable_checkpoint(None, tmp_path) == (None, [])
