"""A history of what the simulation never has: rows and files, engines, receivers, results that expire, workers switched off."""

from __future__ import annotations

from mloc.core.events import (
    ArtifactStored,
    AttemptStarted,
    AttemptSucceeded,
    CallbackFailed,
    CallbackMade,
    CancelRequested,
    CheckpointSaved,
    EngineReady,
    EngineSlept,
    EngineWoke,
    FoldVersionActivated,
    Need,
    Receiver,
    ResultExpired,
    RowsCompleted,
    WorkerElasticChanged,
    WorkerRegistered,
    WorkerRetired,
    raw,
)
from tests.core.history import History, dispatch_of

ENGINE = "tiny@0123456789ab/vllm"
RECEIVERS = (Receiver("result", "https://a/x", "PUT", {"x-run": "1"}, 5.0), Receiver("notice", "https://b/y", on=("succeeded", "failed"), secret="s"))


def history_of_them() -> History:
    """Some tasks are done and told, one is told of later, one runs on."""
    history = History(now_ms=1_700_000_000_000)
    history.limits = type(history.limits)(dispatch_policy="round-robin")
    history.add(FoldVersionActivated(version=1))
    history.worker("w1", slots=2)
    history.worker("w2", devices=2)
    history.add(WorkerRegistered(worker="w3", incarnation=1, run_id="run", task_types=("echo",), lacks={"sft": "torch"}, versions={"mloc": "1"}))
    on_w1 = {"worker": "w1", "incarnation": 1, "engine": ENGINE}
    history.add(EngineReady(**on_w1, seconds=3.5, load_sec=3.0), EngineSlept(**on_w1, seconds=0.5, asleep=True), EngineWoke(**on_w1, seconds=0.25))
    history.add(WorkerElasticChanged(worker="w2", enabled=False, by="ada", reason="it is dear"))
    for id in ("rows", "runs"):
        need = Need("inference", engine=ENGINE, cpu=2.0, memory=2**30)
        history.submit(id, need, receivers=RECEIVERS, ttl_sec=60.0, has_secrets=True, model="tiny", owner="ada")
    answers = history.settle()
    for id in ("rows", "runs"):
        sent = dispatch_of(answers, id)
        attempt = {"task": id, "attempt": sent.attempt, "worker": sent.worker, "incarnation": sent.incarnation}
        history.now_ms += 1000
        history.add(AttemptStarted(**attempt), RowsCompleted(**attempt, rows=7, part="part-0"), CheckpointSaved(**attempt, path="at-7", step=7))
        history.add(ArtifactStored(task=id, name="a.bin", sha256="0" * 64, size_bytes=3, by="w1"))
        if id == "rows":
            usage = {"num_requests": 10}
            history.add(AttemptSucceeded(**attempt, result=raw(b'{"ok":true}'), duration_ms=1000.0, usage=usage))
    history.settle()
    _told(history)
    history.submit("late", receivers=RECEIVERS, ttl_sec=60.0)
    history.add(WorkerElasticChanged(worker="w2", enabled=True, by="ada"), WorkerRetired(worker="w3", incarnation=1, reason="stopped"))
    history.add(CancelRequested(task="late", by="ada"))
    history.settle()
    return history


def _told(history: History) -> None:
    """Who wanted to be told of the end, each in another way; then the result's time is over."""
    ended_ms = history.task("rows").callbacks[0].ended_ms
    of = {"task": "rows", "ended_ms": ended_ms}
    history.now_ms += 1000
    history.add(CallbackFailed(**of, what="result", status=503, error="not now", again_ms=1000), CallbackMade(**of, what="notice", status=200))
    history.now_ms += 1000
    history.add(CallbackFailed(**of, what="result", error="no answer"))
    history.now_ms += 60_000
    history.add(ResultExpired(task="rows", due_ms=history.task("rows").since_ms + 60_000))
