"""What launchers of distributed trainings leave in an environment makes no rank of a process that we did not start as one."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task

from mloc.core.host_frames import Go, Quit, Stopped, Telemetry
from mloc.executors import host as hosts
from mloc.executors.ranks import MARK, forget_launcher, in_rank, rank
from mloc.executors.training.rank_launch import Launch, _environment

TORCHRUN = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "7", "ACCELERATE_MIXED_PRECISION": "fp16", "OMPI_COMM_WORLD_SIZE": "2",
}  # fmt: skip


@pytest.fixture
def by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MARK, raising=False)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("by_torchrun")
def test_only_a_process_that_was_started_as_a_rank_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_rank()
    assert rank() == 0
    for name, value in _environment(1, Launch(2), 29501).items():
        monkeypatch.setenv(name, value)
    assert in_rank()
    assert rank() == 1


@pytest.mark.usefixtures("by_torchrun")
def test_a_launchers_variables_are_taken_out_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKING", "kept")
    forget_launcher()
    assert not set(TORCHRUN) & set(os.environ)
    assert os.environ["RANKING"] == "kept"


def test_what_an_attempt_says_of_ranks_in_the_environment_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    found: list[set[str]] = []

    def as_trl_with_vllm_does(task: Any, *_: Any) -> Stopped:
        found.append(set(TORCHRUN) & set(os.environ))
        os.environ |= TORCHRUN
        return Stopped(task.task, task.attempt, "done")

    monkeypatch.setattr(hosts, "run_attempt", as_trl_with_vllm_does)
    sent: queue.SimpleQueue[Any] = queue.SimpleQueue()

    class Output:
        send = staticmethod(sent.put)

    host = hosts.Host(Output())
    for frame in (Go(), task("one", "sft", Path("/nonexistent")), task("two", "sft", Path("/nonexistent")), Quit()):
        host.take(frame)
    host.run()
    assert found == [set(), set()]
    assert not set(TORCHRUN) & set(os.environ)


@pytest.mark.models
def test_a_host_of_a_worker_that_a_launcher_started_trains_in_ranks_of_its_own(tmp_path: Path, host: Callable[..., DrivenHost]) -> None:
    started = host(environ=TORCHRUN)
    model = {"source": {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}}
    pairs = [{"prompt": "What is 1?", "response": "1 is a number."}] * 4
    started.send(task("two", "sft", tmp_path, model=model, data={"type": "list", "items": pairs}, training={"nproc_per_node": 2, "max_steps": 1}))
    started.wait_for(lambda frame: isinstance(frame, Telemetry) and any("training in 2 processes" in line for line in frame.lines))
